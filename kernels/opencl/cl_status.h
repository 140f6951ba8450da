// OpenCL error codes as statuses.
#ifndef QUANTD_KERNELS_OPENCL_CL_STATUS_H_
#define QUANTD_KERNELS_OPENCL_CL_STATUS_H_

#include <CL/cl.h>

#include "core/status.h"

namespace quantd::opencl {

// "CL_OUT_OF_RESOURCES"; "OpenCL error -1234" for codes outside the standard.
std::string ClErrorName(cl_int error);

// What the device was doing when an error came back. Drivers report a kernel that crashed the
// device only at the next wait, and often as CL_OUT_OF_RESOURCES.
enum class ClPhase { kSubmit, kWait };

// OK for CL_SUCCESS. RESOURCE_EXHAUSTED when memory or resources ran out, UNAVAILABLE when the
// device was lost, FAILED_PRECONDITION when there is no device or compiler, INTERNAL for a wrong
// call. `doing` completes "OpenCL device failed to ...".
absl::Status ToStatus(cl_int error, absl::string_view doing, ClPhase phase = ClPhase::kSubmit);

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_CL_STATUS_H_
