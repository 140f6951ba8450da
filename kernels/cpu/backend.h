// The CPU implementation of kernels/backend.h.
#ifndef QUANTD_KERNELS_CPU_BACKEND_H_
#define QUANTD_KERNELS_CPU_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace quantd {

// A backend on the process's compute team, with the best instruction set that this machine has. The
// environment variable QUANTD_ISA (scalar, avx2, avx512) forces one; INVALID_ARGUMENT when it names
// an unknown one, FAILED_PRECONDITION when this machine lacks it.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend();

DeviceInfo CpuDeviceInfo();

}  // namespace quantd

#endif  // QUANTD_KERNELS_CPU_BACKEND_H_
