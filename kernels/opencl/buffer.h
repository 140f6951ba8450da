// Device memory with accounting, and the one in-order queue that works on it.
#ifndef QUANTD_KERNELS_OPENCL_BUFFER_H_
#define QUANTD_KERNELS_OPENCL_BUFFER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "core/status.h"
#include "kernels/opencl/cl_handles.h"
#include "kernels/opencl/cl_status.h"
#include "kernels/opencl/device.h"

namespace quantd::opencl {

// Device memory that is released, and given back to the account, with the object. The driver keeps
// the memory until commands in flight are done with it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(ClMem mem, uint64_t bytes, std::shared_ptr<std::atomic<uint64_t>> account);
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  cl_mem get() const { return mem_.get(); }
  uint64_t bytes() const { return bytes_; }

 private:
  ClMem mem_;
  uint64_t bytes_ = 0;
  std::shared_ptr<std::atomic<uint64_t>> account_;
};

// Work-items in all and per group. A dimension of `global` is rounded up to a multiple of `local`.
struct Range {
  size_t global[3] = {1, 1, 1};
  size_t local[3] = {0, 0, 0};  // local[0] == 0: left to the driver
};

// Lines of one length in host memory, `pitch` bytes from one's begin to the next's.
struct HostLines {
  uint64_t bytes = 0;  // of a line
  uint64_t count = 0;
  uint64_t pitch = 0;  // at least `bytes`
};

// A context with one in-order queue. Once the device is lost every call returns that error.
class Queue {
 public:
  static absl::StatusOr<Queue> Create(const Device& device);

  const Device& device() const { return device_; }
  cl_context context() const { return context_.get(); }
  uint64_t allocated() const { return allocated_->load(); }

  // At least one byte. RESOURCE_EXHAUSTED, with figures, when it exceeds the device's largest
  // allocation, the memory left, or the driver refuses. `what` names it in the message.
  absl::StatusOr<Buffer> Allocate(uint64_t bytes, absl::string_view what);

  // Copies to the device and waits, so `bytes` may go afterwards.
  absl::Status Write(const Buffer& to, uint64_t offset, std::span<const std::byte> bytes);
  // Waits for all work before it, then for the copy.
  absl::Status Read(const Buffer& from, uint64_t offset, std::span<std::byte> bytes);

  // The same of lines, which lie without gaps on the device.
  absl::Status WriteLines(const Buffer& to, const void* from, const HostLines& lines);
  absl::Status ReadLines(const Buffer& from, void* to, const HostLines& lines);
  // Zeros, when the work before it is done.
  absl::Status Clear(const Buffer& buffer, uint64_t bytes);

  // Sets the kernel's arguments (cl_mem, cl_int, cl_float, in order) and submits it.
  template <class... Args>
  absl::Status Run(cl_kernel kernel, const Range& range, const Args&... args) {
    RETURN_IF_ERROR(lost_);
    cl_uint index = 0;
    cl_int error = CL_SUCCESS;
    // A cl_mem is a pointer, and is passed as one: NOLINTNEXTLINE(bugprone-sizeof-expression)
    ((error = error != CL_SUCCESS ? error : clSetKernelArg(kernel, index++, sizeof(args), &args)),
     ...);
    if (error != CL_SUCCESS) return Check(error, "set a kernel's arguments", ClPhase::kSubmit);
    return Submit(kernel, range);
  }

 private:
  Queue() = default;
  absl::Status Submit(cl_kernel kernel, const Range& range);
  absl::Status Check(cl_int error, absl::string_view doing, ClPhase phase);

  Device device_;
  ClContext context_;
  ClQueue queue_;
  absl::Status lost_;
  std::shared_ptr<std::atomic<uint64_t>> allocated_;
};

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_BUFFER_H_
