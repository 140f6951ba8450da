// A machine without any OpenCL driver: run with OCL_ICD_VENDORS naming a folder that is not there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/backend.h"

namespace quantd {
namespace {

TEST(OpenClAbsent, IsAFailedPreconditionWithTheRemedy) {
  const absl::Status status = CreateBackend("opencl").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("pocl-opencl-icd"));
}

TEST(OpenClAbsent, ListsNoOpenClDevice) {
  for (const DeviceInfo& device : ListDevices()) {
    EXPECT_THAT(device.id, testing::Not(testing::StartsWith("opencl")));
  }
}

}  // namespace
}  // namespace quantd
