// BitNet b1.58 (Transformers 5.23, integrations/bitnet.py): ternary weights, inputs rounded to int8
// for every token. Two Linear classes, which differ in what `weight_scale` means, and a mode that
// stores float weights and makes them ternary whenever they are used.
#ifndef QUANTD_QUANTIZERS_CODECS_BITNET_H_
#define QUANTD_QUANTIZERS_CODECS_BITNET_H_

#include <optional>

#include "quantizers/codecs/codec.h"

namespace quantd {

struct BitNetConfig {
  std::string linear_class = "bitlinear";     // or "autobitlinear"
  std::string quantization_mode = "offline";  // or "online", which bitlinear does not know
  bool use_rms_norm = false;                  // of the inputs, by every Linear for itself
  double rms_norm_eps = 1e-6;
  std::optional<std::vector<std::string>> modules_to_not_convert;

  bool is_auto() const { return linear_class == "autobitlinear"; }
  bool is_online() const { return is_auto() && quantization_mode == "online"; }
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<BitNetConfig> ParseBitNetConfig(const std::string& json);
absl::Status CheckBitNetConfig(const BitNetConfig& config);
std::string WriteBitNetConfig(const BitNetConfig& config);

// Turns `ternary`, the absmean codes of `weight`, into what a Linear of `config` stores and
// computes: the stored scale in the weight's dtype (saturated), rounded inputs, a norm of ones.
void MarkBitNet(const BitNetConfig& config, const TensorView& weight, float absmean,
                QuantizedTensor* ternary);

// `weight` [out/4, in] of 2-bit codes (byte row r holds the rows r, r + out/4, ... of the matrix,
// lowest bits first) or, online, [out, in]; `weight_scale` [1]; `rms_norm.weight` [in].
class BitNetCodec : public Codec {
 public:
  // `model` tells which modules an online checkpoint leaves alone.
  BitNetCodec(BitNetConfig config, ModelConfig model)
      : config_(std::move(config)), model_(std::move(model)) {}

  absl::string_view quant_method() const override { return "bitnet"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 3; }

 private:
  absl::StatusOr<QuantizedTensor> DecodePacked(const ModuleTensors& tensors) const;
  absl::Status ReadNorm(const ModuleTensors& tensors, QuantizedTensor* out) const;

  BitNetConfig config_;
  ModelConfig model_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_BITNET_H_
