#include "service/tensor_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "service/status.h"

namespace quantd {
namespace {

constexpr size_t kSendChunkBytes = 256 << 10;

absl::StatusOr<uint64_t> ByteSize(const quant::v1::TensorSpec& spec, DType dtype) {
  if (spec.shape_size() > 8) {
    return FieldError("tensor.shape", absl::StrCat("has ", spec.shape_size(),
                                                   " dimensions; at most 8 are allowed"));
  }
  uint64_t bytes = static_cast<uint64_t>(SizeOf(dtype));
  for (const int64_t dim : spec.shape()) {
    if (dim <= 0) {
      return FieldError("tensor.shape", absl::StrCat("dimension ", dim, " must be positive"));
    }
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) {
      return FieldError("tensor.shape", "the size overflows 64 bits");
    }
  }
  return bytes;
}

}  // namespace

absl::Status TensorAssembler::CheckComplete() const {
  if (!tensors_.empty() && tensors_.back().tensor.bytes.size() != declared_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", Shown(tensors_.back().name), "\": ", tensors_.back().tensor.bytes.size(),
        " bytes came, its shape and dtype say ", declared_));
  }
  return absl::OkStatus();
}

absl::Status TensorAssembler::Begin(const quant::v1::TensorSpec& spec) {
  RETURN_IF_ERROR(CheckComplete());
  if (spec.name().empty() || spec.name().size() > 200) {
    return FieldError("tensor.name", "must have 1 to 200 bytes");
  }
  for (const NamedTensor& other : tensors_) {
    if (other.name == spec.name()) {
      return FieldError("tensor.name", absl::StrCat(Shown(spec.name()), " was sent before"));
    }
  }
  if (tensors_.size() == kMaxTensors) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxTensors, " tensors in one request"));
  }
  const std::optional<DType> dtype = DTypeFromSafetensors(spec.dtype());
  if (!dtype.has_value()) {
    return FieldError("tensor.dtype", absl::StrCat("unknown dtype \"", Shown(spec.dtype()),
                                                   "\"; spelled as in safetensors: F32, BF16, U8"));
  }
  ASSIGN_OR_RETURN(const uint64_t bytes, ByteSize(spec, *dtype));
  if (bytes > max_bytes_ - declared_total_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "tensor \"", Shown(spec.name()), "\" needs ", bytes, " bytes; ",
        max_bytes_ - declared_total_, " of ", max_bytes_, " are left for one request"));
  }
  declared_total_ += bytes;
  declared_ = bytes;
  tensors_.push_back(
      {spec.name(), Tensor{*dtype, Shape(spec.shape().begin(), spec.shape().end()), {}}});
  return absl::OkStatus();
}

absl::Status TensorAssembler::Append(absl::string_view data) {
  if (tensors_.empty()) {
    return absl::InvalidArgumentError("data came before any tensor spec");
  }
  if (data.size() > kMaxChunkBytes) {
    return FieldError("data", absl::StrCat("a chunk of ", data.size(), " bytes; at most ",
                                           kMaxChunkBytes, " are allowed"));
  }
  std::vector<std::byte>& bytes = tensors_.back().tensor.bytes;
  if (data.size() > declared_ - bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", Shown(tensors_.back().name),
                                                   "\": more bytes than the ", declared_,
                                                   " that its shape and dtype say"));
  }
  const auto* begin = reinterpret_cast<const std::byte*>(data.data());
  bytes.insert(bytes.end(), begin, begin + data.size());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<NamedTensor>> TensorAssembler::Finish() {
  if (tensors_.empty()) {
    return absl::InvalidArgumentError("the stream ended before any tensor came");
  }
  RETURN_IF_ERROR(CheckComplete());
  declared_total_ = 0;
  return std::move(tensors_);
}

bool TensorChunker::Next(quant::v1::TensorChunk& out) {
  out.Clear();
  if (tensor_ == tensors_.size()) {
    if (quantization_config_.empty()) {
      return false;
    }
    out.set_quantization_config(std::move(quantization_config_));
    for (std::string& warning : warnings_) out.add_warnings(std::move(warning));
    quantization_config_.clear();
    return true;
  }
  NamedTensor& current = tensors_[tensor_];
  if (!opened_) {
    opened_ = true;
    offset_ = 0;
    auto& spec = *out.mutable_tensor();
    spec.set_name(current.name);
    spec.set_dtype(std::string(InfoOf(current.tensor.dtype).safetensors_name));
    for (const int64_t dim : current.tensor.shape) {
      spec.add_shape(dim);
    }
  } else {
    const size_t size = std::min(kSendChunkBytes, current.tensor.bytes.size() - offset_);
    out.set_data(current.tensor.bytes.data() + offset_, size);
    offset_ += size;
  }
  if (offset_ == current.tensor.bytes.size()) {
    current.tensor.bytes = {};
    opened_ = false;
    ++tensor_;
  }
  return true;
}

}  // namespace quantd
