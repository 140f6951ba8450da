// auto-round's own checkpoints (0.16.1): codes packed along the inputs as GPTQ's, zero points less
// one ("auto_round:auto_gptq") or as they are ("auto_round"), or AWQ's gemm layout. Scales may be
// negative.
#ifndef QUANTD_QUANTIZERS_CODECS_AUTOROUND_H_
#define QUANTD_QUANTIZERS_CODECS_AUTOROUND_H_

#include "quantizers/codecs/autoround_config.h"
#include "quantizers/codecs/codec.h"

namespace quantd {

// Notes on a matrix with unsigned codes and integer zero points what Encode needs.
void MarkAutoRound(AutoRoundPacking packing, bool stores_group_index, QuantizedTensor* weight);

class AutoRoundCodec : public Codec {
 public:
  explicit AutoRoundCodec(AutoRoundConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "auto-round"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  // A zero point of 0 has no place where they are stored less one: it becomes 1, as upstream's
  // does.
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }
  std::optional<DType> BiasDType() const override { return DType::kF16; }

 private:
  AutoRoundConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AUTOROUND_H_
