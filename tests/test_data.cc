#include "tests/test_data.h"

namespace quantd {

std::string TestData(const std::string& file) {
  return file.empty() ? QUANTD_TEST_DATA : std::string(QUANTD_TEST_DATA) + "/" + file;
}

}  // namespace quantd
