// Where the tests' files are.
#ifndef QUANTD_TESTS_TEST_DATA_H_
#define QUANTD_TESTS_TEST_DATA_H_

#include <string>

namespace quantd {

// The path of `file` ("golden/fp8/...") in tests/data of the source tree; of tests/data itself for
// "".
std::string TestData(const std::string& file = "");

}  // namespace quantd

#endif  // QUANTD_TESTS_TEST_DATA_H_
