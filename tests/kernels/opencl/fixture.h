// The OpenCL device under test.
#ifndef QUANTD_TESTS_KERNELS_OPENCL_FIXTURE_H_
#define QUANTD_TESTS_KERNELS_OPENCL_FIXTURE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/opencl/device.h"

namespace quantd {

// The first device, of the kind that the tests are for.
absl::StatusOr<opencl::Device> TestDevice();

// The kernels are those for the device's type, or for the type that QUANTD_TEST_OPENCL_KERNELS
// (cpu, gpu) names.
//
// One backend on the first device, shared by all tests so that kernels are built once. Tests skip
// when there is no device, and fail instead when QUANTD_REQUIRE_OPENCL=1.
class OpenClTest : public testing::Test {
 protected:
  void SetUp() override;
  Backend& backend() { return *backend_; }

  // Device arrays filled with `values`, or zeros.
  std::unique_ptr<DeviceArray> ArrayOf(int64_t rows, int64_t cols, std::span<const float> values);
  std::unique_ptr<DeviceArray> NewArray(int64_t rows, int64_t cols);
  std::vector<float> Values(const DeviceArray& array);

 private:
  Backend* backend_ = nullptr;
};

template <class Parameter>
class OpenClTestWith : public OpenClTest, public testing::WithParamInterface<Parameter> {};

std::vector<float> RandomFloats(int64_t count, unsigned seed);

#define ASSERT_OK(expression)                  \
  do {                                         \
    const absl::Status status_ = (expression); \
    ASSERT_TRUE(status_.ok()) << status_;      \
  } while (false)

}  // namespace quantd

#endif  // QUANTD_TESTS_KERNELS_OPENCL_FIXTURE_H_
