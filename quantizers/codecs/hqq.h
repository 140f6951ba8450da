// HQQ layers as hqq 0.2.8 stores them in safetensors (HQQLinear.state_dict with
// encoded_state_dict), which is also what Transformers saved: packed codes, scales and zero points,
// and every setting of the layer as a small tensor.
#ifndef QUANTD_QUANTIZERS_CODECS_HQQ_H_
#define QUANTD_QUANTIZERS_CODECS_HQQ_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/hqq_config.h"

namespace quantd {

// Notes on a matrix quantized with `parameters`, in groups of `weight.block`, what Encode needs.
void MarkHqq(const HqqParameters& parameters, QuantizedTensor* weight);

class HqqCodec : public Codec {
 public:
  explicit HqqCodec(HqqConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "hqq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 19; }

 private:
  HqqConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HQQ_H_
