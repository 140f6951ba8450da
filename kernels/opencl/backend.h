// The OpenCL implementation of kernels/backend.h.
#ifndef QUANTD_KERNELS_OPENCL_BACKEND_H_
#define QUANTD_KERNELS_OPENCL_BACKEND_H_

#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace quantd {

// The `index`th device of ListOpenClDevices(). FAILED_PRECONDITION with the reason when there is no
// such device or it cannot be used.
absl::StatusOr<std::unique_ptr<Backend>> CreateOpenClBackend(int index);

// Usable devices of all platforms, in a stable order, with ids "opencl:0", "opencl:1", ... Empty
// when no OpenCL driver is installed.
std::vector<DeviceInfo> ListOpenClDevices();

}  // namespace quantd

#endif  // QUANTD_KERNELS_OPENCL_BACKEND_H_
