#include "kernels/opencl/cl_status.h"

#include "absl/strings/str_cat.h"

namespace quantd::opencl {
namespace {

// CL_PLATFORM_NOT_FOUND_KHR of cl_khr_icd: the loader found no driver.
constexpr cl_int kPlatformNotFound = -1001;

struct ErrorFacts {
  cl_int code;
  absl::string_view name;
  absl::StatusCode status;
};

constexpr ErrorFacts kErrors[] = {
    {CL_DEVICE_NOT_FOUND, "CL_DEVICE_NOT_FOUND", absl::StatusCode::kFailedPrecondition},
    {CL_DEVICE_NOT_AVAILABLE, "CL_DEVICE_NOT_AVAILABLE", absl::StatusCode::kUnavailable},
    {CL_COMPILER_NOT_AVAILABLE, "CL_COMPILER_NOT_AVAILABLE", absl::StatusCode::kFailedPrecondition},
    {CL_MEM_OBJECT_ALLOCATION_FAILURE, "CL_MEM_OBJECT_ALLOCATION_FAILURE",
     absl::StatusCode::kResourceExhausted},
    {CL_OUT_OF_RESOURCES, "CL_OUT_OF_RESOURCES", absl::StatusCode::kResourceExhausted},
    {CL_OUT_OF_HOST_MEMORY, "CL_OUT_OF_HOST_MEMORY", absl::StatusCode::kResourceExhausted},
    {CL_BUILD_PROGRAM_FAILURE, "CL_BUILD_PROGRAM_FAILURE", absl::StatusCode::kFailedPrecondition},
    {CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
     absl::StatusCode::kUnavailable},
    {CL_INVALID_VALUE, "CL_INVALID_VALUE", absl::StatusCode::kInternal},
    {CL_INVALID_CONTEXT, "CL_INVALID_CONTEXT", absl::StatusCode::kUnavailable},
    {CL_INVALID_COMMAND_QUEUE, "CL_INVALID_COMMAND_QUEUE", absl::StatusCode::kUnavailable},
    {CL_INVALID_MEM_OBJECT, "CL_INVALID_MEM_OBJECT", absl::StatusCode::kInternal},
    {CL_INVALID_BUILD_OPTIONS, "CL_INVALID_BUILD_OPTIONS", absl::StatusCode::kFailedPrecondition},
    {CL_INVALID_PROGRAM_EXECUTABLE, "CL_INVALID_PROGRAM_EXECUTABLE",
     absl::StatusCode::kFailedPrecondition},
    {CL_INVALID_KERNEL_NAME, "CL_INVALID_KERNEL_NAME", absl::StatusCode::kInternal},
    {CL_INVALID_KERNEL_ARGS, "CL_INVALID_KERNEL_ARGS", absl::StatusCode::kInternal},
    {CL_INVALID_ARG_SIZE, "CL_INVALID_ARG_SIZE", absl::StatusCode::kInternal},
    {CL_INVALID_WORK_GROUP_SIZE, "CL_INVALID_WORK_GROUP_SIZE",
     absl::StatusCode::kFailedPrecondition},
    {CL_INVALID_BUFFER_SIZE, "CL_INVALID_BUFFER_SIZE", absl::StatusCode::kResourceExhausted},
    {kPlatformNotFound, "CL_PLATFORM_NOT_FOUND_KHR", absl::StatusCode::kFailedPrecondition},
};

absl::StatusCode CodeOf(cl_int error, ClPhase phase) {
  // After a wait, anything but a shortage of the host's memory means that work was lost.
  if (phase == ClPhase::kWait && error != CL_OUT_OF_HOST_MEMORY &&
      error != CL_MEM_OBJECT_ALLOCATION_FAILURE) {
    return absl::StatusCode::kUnavailable;
  }
  for (const ErrorFacts& facts : kErrors) {
    if (facts.code == error) return facts.status;
  }
  // Vendors report lost devices with codes of their own (NVIDIA: -9999).
  return error < -1001 ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal;
}

absl::string_view RemedyOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
      return "; use a smaller model or context, unload another model, or choose another device";
    case absl::StatusCode::kUnavailable:
      return "; the device was lost: load the model again, or choose device \"cpu\"";
    case absl::StatusCode::kFailedPrecondition:
      return "; install or update the device's OpenCL driver, or choose device \"cpu\"";
    default:
      return "";
  }
}

}  // namespace

std::string ClErrorName(cl_int error) {
  for (const ErrorFacts& facts : kErrors) {
    if (facts.code == error) return std::string(facts.name);
  }
  return absl::StrCat("OpenCL error ", error);
}

absl::Status ToStatus(cl_int error, absl::string_view doing, ClPhase phase) {
  if (error == CL_SUCCESS) return absl::OkStatus();
  const absl::StatusCode code = CodeOf(error, phase);
  return absl::Status(code, absl::StrCat("OpenCL device failed to ", doing, ": ",
                                         ClErrorName(error), RemedyOf(code)));
}

}  // namespace quantd::opencl
