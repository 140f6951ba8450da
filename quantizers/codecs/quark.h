// AMD Quark's Hugging Face export (amd-quark 0.13, export/nn/modules, utils/pack.py): `weight`,
// `weight_scale`, `weight_zero_point`, packed by dtype and scheme.
#ifndef QUANTD_QUANTIZERS_CODECS_QUARK_H_
#define QUANTD_QUANTIZERS_CODECS_QUARK_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/quark_config.h"

namespace quantd {

class QuarkCodec : public Codec {
 public:
  // `model_dtype`: what matrices dequantize to.
  QuarkCodec(QuarkConfig config, DType model_dtype)
      : config_(std::move(config)), model_dtype_(model_dtype) {}

  absl::string_view quant_method() const override { return "quark"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  int64_t GroupSizeOf(const ModuleInfo& module) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 8; }

 private:
  // INVALID_ARGUMENT when quantization_config leaves the module alone.
  absl::StatusOr<const QuarkSpec*> SpecOf(const ModuleTensors& tensors) const;

  QuarkConfig config_;
  DType model_dtype_;
};

// Marks a tensor that a solver made as one of `spec`, for QuarkCodec::Encode. `reorder`: the AWQ
// order of nibbles in a word.
void MarkQuark(const QuarkSpec& spec, bool reorder, QuantizedTensor* weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUARK_H_
