#include "tests/kernels/opencl/fixture.h"

#include <cstdlib>
#include <random>

#include "kernels/opencl/opencl_backend.h"

// PoCL keeps some bytes of its own at exit; leaks of ours have no frame of its library.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:libpocl\n";
}

namespace quantd {

absl::StatusOr<opencl::Device> TestDevice() {
  ASSIGN_OR_RETURN(opencl::Device device, opencl::FindDevice(0));
  const char* kernels = std::getenv("QUANTD_TEST_OPENCL_KERNELS");
  if (kernels != nullptr) device.is_cpu = std::string(kernels) == "cpu";
  return device;
}

namespace {

absl::StatusOr<std::unique_ptr<Backend>> CreateTestBackend() {
  ASSIGN_OR_RETURN(const opencl::Device device, TestDevice());
  return opencl::OpenClBackend::Create(device, "opencl:0");
}

}  // namespace

void OpenClTest::SetUp() {
  static auto* const shared = new absl::StatusOr<std::unique_ptr<Backend>>(CreateTestBackend());
  if (shared->ok()) {
    backend_ = (*shared)->get();
    return;
  }
  const char* required = std::getenv("QUANTD_REQUIRE_OPENCL");
  if (required != nullptr && std::string(required) == "1") {
    FAIL() << "QUANTD_REQUIRE_OPENCL=1, but " << shared->status();
  }
  GTEST_SKIP() << "no OpenCL device (apt-get install pocl-opencl-icd): " << shared->status();
}

std::unique_ptr<DeviceArray> OpenClTest::ArrayOf(int64_t rows, int64_t cols,
                                                 std::span<const float> values) {
  auto array = backend().Allocate(rows, cols);
  EXPECT_TRUE(array.ok()) << array.status();
  const absl::Status uploaded = backend().Upload(values, **array);
  EXPECT_TRUE(uploaded.ok()) << uploaded;
  return *std::move(array);
}

std::unique_ptr<DeviceArray> OpenClTest::NewArray(int64_t rows, int64_t cols) {
  return ArrayOf(rows, cols, std::vector<float>(rows * cols));
}

std::vector<float> OpenClTest::Values(const DeviceArray& array) {
  std::vector<float> values(array.rows() * array.cols());
  const absl::Status read = backend().Download(array, 0, array.rows(), values);
  EXPECT_TRUE(read.ok()) << read;
  return values;
}

std::vector<float> RandomFloats(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(generator() % 20001) / 10000.0f - 1.0f;
  return values;
}

}  // namespace quantd
