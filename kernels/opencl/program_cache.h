// Kernels built on demand for one device, once per combination of defines.
#ifndef QUANTD_KERNELS_OPENCL_PROGRAM_CACHE_H_
#define QUANTD_KERNELS_OPENCL_PROGRAM_CACHE_H_

#include <map>
#include <span>
#include <string>
#include <utility>

#include "core/status.h"
#include "kernels/opencl/cl_handles.h"

namespace quantd::opencl {

// A kernel as the host asks for it. `sources` are concatenated; `options` are build options such as
// "-DWG=64 -DROWS=4".
struct KernelSpec {
  const char* name = nullptr;
  std::span<const char* const> sources;  // static storage
  std::string options;
};

class ProgramCache {
 public:
  ProgramCache(cl_context context, cl_device_id device) : context_(context), device_(device) {}

  // The kernel, built at its first use. It lives as long as the cache; its arguments are whatever
  // the last caller set. FAILED_PRECONDITION with the (shortened) build log when the driver refuses
  // it, also on every later request for the same kernel.
  absl::StatusOr<cl_kernel> Get(const KernelSpec& spec);

  size_t programs_built() const { return programs_.size(); }

 private:
  absl::StatusOr<ClProgram> Build(const KernelSpec& spec) const;

  cl_context context_;
  cl_device_id device_;
  // Keyed by the first source's address and the options; kernels also by name.
  std::map<std::pair<const void*, std::string>, absl::StatusOr<ClProgram>> programs_;
  std::map<std::pair<const void*, std::string>, ClKernel> kernels_;
};

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_PROGRAM_CACHE_H_
