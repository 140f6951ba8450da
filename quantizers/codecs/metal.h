// Metal (Transformers 5.23, integrations/metal_quantization.py): MLX' affine groups, codes of 2, 4
// or 8 bits in 32-bit words, w = code * scale + bias.
#ifndef QUANTD_QUANTIZERS_CODECS_METAL_H_
#define QUANTD_QUANTIZERS_CODECS_METAL_H_

#include <optional>

#include "quantizers/codecs/codec.h"

namespace quantd {

struct MetalConfig {
  int bits = 4;
  int64_t group_size = 64;
  std::optional<std::vector<std::string>> modules_to_not_convert;
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<MetalConfig> ParseMetalConfig(const std::string& json);
absl::Status CheckMetalConfig(const MetalConfig& config);
std::string WriteMetalConfig(const MetalConfig& config);
// INVALID_ARGUMENT unless groups and words fill the rows.
absl::Status CheckMetalShape(const MetalConfig& config, int64_t cols);

// `weight` U32 [out, in * bits / 32], low bits first; `scales` and `qbiases` [out, in / group_size]
// in the model's dtype, which upstream dequantizes to.
class MetalCodec : public Codec {
 public:
  explicit MetalCodec(MetalConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "metal"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  int64_t GroupSizeOf(const ModuleInfo& module) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 3; }

 private:
  MetalConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_METAL_H_
