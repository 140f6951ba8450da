// optimum-quanto 0.2.7: `weight._data` with `weight._scale` (8 bits), `weight._data._data` with
// `weight._scale` and `weight._shift` (2 and 4 bits), `input_scale` and `output_scale`.
#ifndef QUANTD_QUANTIZERS_CODECS_QUANTO_H_
#define QUANTD_QUANTIZERS_CODECS_QUANTO_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/quanto_config.h"

namespace quantd {

// Gives a freshly quantized matrix what quanto stores beside it.
void MarkQuanto(const QuantoType& type, QuantizedTensor* weight);

class QuantoCodec : public Codec {
 public:
  // Packed matrices do not tell their width: it comes from `config.shape` or from the dimensions of
  // `model`.
  QuantoCodec(QuantoConfig config, ModelConfig model)
      : config_(std::move(config)), model_(std::move(model)) {}

  absl::string_view quant_method() const override { return "quanto"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 5; }

 private:
  // The type of a module's weight, or null when it is not quantized.
  const QuantoType* TypeOf(const ModuleTensors& tensors) const;
  absl::StatusOr<const QuantoType*> RequireType(const ModuleTensors& tensors) const;
  absl::StatusOr<QuantizedTensor> DecodeBytes(const ModuleTensors& tensors,
                                              const QuantoType& type) const;
  absl::StatusOr<QuantizedTensor> DecodePacked(const ModuleTensors& tensors,
                                               const QuantoType& type) const;
  absl::StatusOr<Shape> PackedShape(const ModuleTensors& tensors) const;

  QuantoConfig config_;
  ModelConfig model_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUANTO_H_
