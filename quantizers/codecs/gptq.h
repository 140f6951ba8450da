// GPTQ layers as GPTQModel 7.7, AutoGPTQ 0.7.1 and Optimum store them: qweight (codes packed along
// the inputs), qzeros (zero points packed along the outputs), scales, g_idx; or, as serialized
// Marlin, B and s (which AutoAWQ calls qweight and scales).
#ifndef QUANTD_QUANTIZERS_CODECS_GPTQ_H_
#define QUANTD_QUANTIZERS_CODECS_GPTQ_H_

#include <utility>

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/gptq_config.h"

namespace quantd {

// Notes on a matrix quantized by a GPTQ solver what Encode needs. Its grid is unsigned, its blocks
// runs of columns with whole zero points, its columns perhaps permuted.
void MarkGptq(GptqFormat format, QuantizedTensor* weight);

class GptqCodec : public Codec {
 public:
  explicit GptqCodec(GptqConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "gptq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }
  std::optional<DType> BiasDType() const override { return DType::kF16; }

 private:
  GptqConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GPTQ_H_
