// Finding OpenCL devices and what they can do.
#ifndef QUANTD_KERNELS_OPENCL_DEVICE_H_
#define QUANTD_KERNELS_OPENCL_DEVICE_H_

#include <CL/cl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace quantd::opencl {

struct Device {
  cl_device_id id = nullptr;
  cl_device_type type = 0;
  std::string name;     // "NVIDIA H100"
  std::string version;  // "OpenCL 3.0 CUDA"
  uint64_t global_memory = 0;
  uint64_t max_allocation = 0;
  uint64_t local_memory = 0;
  // Work-items of a group run one after the other on one core: kernels of work-groups of one, which
  // vectorize by themselves, are faster.
  bool is_cpu = false;
  // What float32 arithmetic keeps to.
  bool has_fma = false;         // fused multiply-adds, in hardware
  bool has_subnormals = false;  // instead of zeros
  size_t max_work_group = 1;    // work-items, also bounded by the first two dimensions' limits
};

// Devices of all platforms that can run the kernels: available, with a compiler, OpenCL C 1.2,
// little-endian. GPUs first, then accelerators, then CPUs; otherwise in the loader's order.
// FAILED_PRECONDITION with the remedy when no driver is installed or no device is usable.
absl::StatusOr<std::vector<Device>> FindDevices();
// The `index`th of them; FAILED_PRECONDITION when there are fewer.
absl::StatusOr<Device> FindDevice(int index);

// The largest power of two that is at most `wanted` and the device's work-group limit; 1 on a CPU.
int WorkGroupFor(const Device& device, int wanted);

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_DEVICE_H_
