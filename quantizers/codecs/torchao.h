// torchao's flattened tensor subclasses (torchao 0.18, prototype/safetensors; Transformers 5.23):
// `_weight_qdata`, `_weight_scale`, ... and a description of every tensor in the file's header.
#ifndef QUANTD_QUANTIZERS_CODECS_TORCHAO_H_
#define QUANTD_QUANTIZERS_CODECS_TORCHAO_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/torchao_config.h"

namespace quantd {

// Marks a tensor that a solver made as one of `scheme`, for TorchAoCodec::Encode.
void MarkTorchAo(const AoScheme& scheme, QuantizedTensor* weight);

class TorchAoCodec : public Codec {
 public:
  // `model_dtype`: what matrices dequantize to where the header does not say.
  TorchAoCodec(TorchAoConfig config, DType model_dtype)
      : config_(std::move(config)), model_dtype_(model_dtype) {}

  absl::string_view quant_method() const override { return "torchao"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  int64_t GroupSizeOf(const ModuleInfo& module) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 6; }
  std::map<std::string, std::string> HeaderTexts(
      const std::vector<WrittenParameter>& parameters) const override;

 private:
  // INVALID_ARGUMENT when quantization_config leaves the module alone.
  absl::StatusOr<const AoScheme*> SchemeOf(const ModuleTensors& tensors) const;

  TorchAoConfig config_;
  DType model_dtype_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_TORCHAO_H_
