// Tensors that travel in pieces: a spec opens a tensor, its bytes follow in order. Both directions,
// with every size checked against what really came.
#ifndef QUANTD_SERVICE_TENSOR_STREAM_H_
#define QUANTD_SERVICE_TENSOR_STREAM_H_

#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"
#include "quantizers/codecs/codec.h"

namespace quantd {

class TensorAssembler {
 public:
  static constexpr size_t kMaxChunkBytes = 1 << 20;
  static constexpr size_t kMaxTensors = 64;

  // Refuses more than `max_bytes` in all.
  explicit TensorAssembler(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // INVALID_ARGUMENT for a bad name, dtype or shape, a name sent before, or while bytes of the
  // tensor before are missing; RESOURCE_EXHAUSTED past the limits. Allocates nothing by the
  // declared size.
  absl::Status Begin(const quant::v1::TensorSpec& spec);
  // INVALID_ARGUMENT before any spec, for more than kMaxChunkBytes or bytes past the declared size.
  absl::Status Append(absl::string_view data);
  // INVALID_ARGUMENT when bytes are missing or there is no tensor. Leaves the assembler empty.
  absl::StatusOr<std::vector<NamedTensor>> Finish();

 private:
  absl::Status CheckComplete() const;

  const uint64_t max_bytes_;
  uint64_t declared_total_ = 0;
  uint64_t declared_ = 0;  // of the last tensor
  std::vector<NamedTensor> tensors_;
};

// The messages of a result, one at a time, so that no second copy of the tensors is held.
class TensorChunker {
 public:
  // `quantization_config`, with the warnings, ends the stream unless it is empty.
  TensorChunker(std::vector<NamedTensor> tensors, std::string quantization_config,
                std::vector<std::string> warnings = {})
      : tensors_(std::move(tensors)),
        quantization_config_(std::move(quantization_config)),
        warnings_(std::move(warnings)) {}
  // False when there is no further message.
  bool Next(quant::v1::TensorChunk& out);

 private:
  std::vector<NamedTensor> tensors_;
  std::string quantization_config_;
  std::vector<std::string> warnings_;
  size_t tensor_ = 0;
  size_t offset_ = 0;
  bool opened_ = false;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_TENSOR_STREAM_H_
