// Owners of OpenCL handles: the only place where clRelease* is spelt.
#ifndef QUANTD_KERNELS_OPENCL_CL_HANDLES_H_
#define QUANTD_KERNELS_OPENCL_CL_HANDLES_H_

#include <CL/cl.h>

#include <memory>
#include <type_traits>

namespace quantd::opencl {

template <auto Release>
struct ClDelete {
  template <class T>
  void operator()(T* handle) const {
    Release(handle);
  }
};

template <class Handle, auto Release>
using ClPtr = std::unique_ptr<std::remove_pointer_t<Handle>, ClDelete<Release>>;

using ClContext = ClPtr<cl_context, clReleaseContext>;
using ClQueue = ClPtr<cl_command_queue, clReleaseCommandQueue>;
using ClProgram = ClPtr<cl_program, clReleaseProgram>;
using ClKernel = ClPtr<cl_kernel, clReleaseKernel>;
using ClMem = ClPtr<cl_mem, clReleaseMemObject>;

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_CL_HANDLES_H_
