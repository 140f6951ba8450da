// compressed-tensors: the formats of llm-compressor and vLLM (compressed-tensors 0.20; the word
// packing of 0.14 and earlier is read and written back as it is).
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/compressed_tensors_config.h"

namespace quantd {

class CompressedTensorsCodec : public Codec {
 public:
  explicit CompressedTensorsCodec(CtConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "compressed-tensors"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  int64_t GroupSizeOf(const ModuleInfo& module) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 12; }

 private:
  CtConfig config_;
};

// Tells the codec how to write a matrix fresh from its solver.
void MarkCompressedTensors(CtFormat format, CtStrategy strategy, QuantizedTensor* weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_H_
