#include "kernels/opencl/buffer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd::opencl {

Buffer::Buffer(ClMem mem, uint64_t bytes, std::shared_ptr<std::atomic<uint64_t>> account)
    : mem_(std::move(mem)), bytes_(bytes), account_(std::move(account)) {
  *account_ += bytes_;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  mem_.swap(other.mem_);
  account_.swap(other.account_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (account_) *account_ -= bytes_;
}

absl::StatusOr<Queue> Queue::Create(const Device& device) {
  Queue queue;
  queue.device_ = device;
  cl_int error = CL_SUCCESS;
  queue.context_.reset(clCreateContext(nullptr, 1, &device.id, nullptr, nullptr, &error));
  RETURN_IF_ERROR(ToStatus(error, "create a context"));
  queue.queue_.reset(clCreateCommandQueue(queue.context_.get(), device.id, 0, &error));
  RETURN_IF_ERROR(ToStatus(error, "create a command queue"));
  queue.allocated_ = std::make_shared<std::atomic<uint64_t>>(0);
  return queue;
}

absl::StatusOr<Buffer> Queue::Allocate(uint64_t bytes, absl::string_view what) {
  RETURN_IF_ERROR(lost_);
  bytes = std::max<uint64_t>(bytes, 1);
  const uint64_t used = allocated_->load();
  if (bytes > device_.max_allocation) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", bytes,
                                                     " bytes in one piece, ", device_.name,
                                                     " allows at most ", device_.max_allocation));
  }
  if (used > device_.global_memory || bytes > device_.global_memory - used) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", bytes, " bytes, ",
                                                     device_.name, " has ", device_.global_memory,
                                                     " of which ", used, " are in use"));
  }
  cl_int error = CL_SUCCESS;
  ClMem mem(clCreateBuffer(context_.get(), CL_MEM_READ_WRITE, bytes, nullptr, &error));
  RETURN_IF_ERROR(
      Check(error, absl::StrCat("allocate ", bytes, " bytes for ", what), ClPhase::kSubmit));
  return Buffer(std::move(mem), bytes, allocated_);
}

absl::Status Queue::Write(const Buffer& to, uint64_t offset, std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(lost_);
  if (bytes.empty()) return absl::OkStatus();
  return Check(clEnqueueWriteBuffer(queue_.get(), to.get(), CL_TRUE, offset, bytes.size(),
                                    bytes.data(), 0, nullptr, nullptr),
               "copy data to the device", ClPhase::kWait);
}

absl::Status Queue::Read(const Buffer& from, uint64_t offset, std::span<std::byte> bytes) {
  RETURN_IF_ERROR(lost_);
  if (bytes.empty()) return Check(clFinish(queue_.get()), "finish its work", ClPhase::kWait);
  return Check(clEnqueueReadBuffer(queue_.get(), from.get(), CL_TRUE, offset, bytes.size(),
                                   bytes.data(), 0, nullptr, nullptr),
               "compute the result", ClPhase::kWait);
}

absl::Status Queue::WriteLines(const Buffer& to, const void* from, const HostLines& lines) {
  if (lines.pitch == lines.bytes || lines.count <= 1) {
    return Write(to, 0, {static_cast<const std::byte*>(from), lines.bytes * lines.count});
  }
  RETURN_IF_ERROR(lost_);
  if (lines.bytes == 0) return absl::OkStatus();
  constexpr size_t kOrigin[3] = {};
  const size_t region[3] = {lines.bytes, lines.count, 1};
  return Check(clEnqueueWriteBufferRect(queue_.get(), to.get(), CL_TRUE, kOrigin, kOrigin, region,
                                        lines.bytes, 0, lines.pitch, 0, from, 0, nullptr, nullptr),
               "copy data to the device", ClPhase::kWait);
}

absl::Status Queue::ReadLines(const Buffer& from, void* to, const HostLines& lines) {
  if (lines.pitch == lines.bytes || lines.count <= 1 || lines.bytes == 0) {
    return Read(from, 0, {static_cast<std::byte*>(to), lines.bytes * lines.count});
  }
  RETURN_IF_ERROR(lost_);
  constexpr size_t kOrigin[3] = {};
  const size_t region[3] = {lines.bytes, lines.count, 1};
  return Check(clEnqueueReadBufferRect(queue_.get(), from.get(), CL_TRUE, kOrigin, kOrigin, region,
                                       lines.bytes, 0, lines.pitch, 0, to, 0, nullptr, nullptr),
               "compute the result", ClPhase::kWait);
}

absl::Status Queue::Clear(const Buffer& buffer, uint64_t bytes) {
  RETURN_IF_ERROR(lost_);
  if (bytes == 0) return absl::OkStatus();
  constexpr cl_uint kZero = 0;
  return Check(clEnqueueFillBuffer(queue_.get(), buffer.get(), &kZero, sizeof kZero, 0, bytes, 0,
                                   nullptr, nullptr),
               "clear its memory", ClPhase::kSubmit);
}

absl::Status Queue::Submit(cl_kernel kernel, const Range& range) {
  size_t global[3];
  for (int i = 0; i < 3; ++i) {
    const size_t unit = std::max<size_t>(range.local[i], 1);
    global[i] = (range.global[i] + unit - 1) / unit * unit;
    if (global[i] == 0) return absl::OkStatus();
  }
  return Check(
      clEnqueueNDRangeKernel(queue_.get(), kernel, 3, nullptr, global,
                             range.local[0] > 0 ? range.local : nullptr, 0, nullptr, nullptr),
      "start a kernel", ClPhase::kSubmit);
}

absl::Status Queue::Check(cl_int error, absl::string_view doing, ClPhase phase) {
  absl::Status status = ToStatus(error, doing, phase);
  if (absl::IsUnavailable(status)) lost_ = status;
  return status;
}

}  // namespace quantd::opencl
