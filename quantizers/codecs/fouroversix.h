// Four Over Six (fouroversix 1.0.5, Transformers 5.23): NVFP4 or MXFP4 weights in the order of
// Blackwell's tensor cores, padded to tiles of 128 rows and four blocks.
#ifndef QUANTD_QUANTIZERS_CODECS_FOUROVERSIX_H_
#define QUANTD_QUANTIZERS_CODECS_FOUROVERSIX_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/solvers/four_over_six.h"

namespace quantd {

struct FourOverSixConfig {
  std::string dtype = "nvfp4";  // of the weights: nvfp4 or mxfp4
  std::string scale_rule = "mse";
  bool weight_scale_2d = false;
  std::vector<std::string> modules_to_not_convert = {"lm_head"};  // whole names

  FourOverSixSpec spec() const;
};

// INVALID_ARGUMENT names the key, found and expected; UNIMPLEMENTED the dtypes of fouroversix that
// are no FP4, overrides for single modules and weights that are quantized whenever they are used.
absl::StatusOr<FourOverSixConfig> ParseFourOverSixConfig(const std::string& json);
absl::Status CheckFourOverSixConfig(const FourOverSixConfig& config);
std::string WriteFourOverSixConfig(const FourOverSixConfig& config);

// `quantized_weight_values` U8 [rows padded, columns padded / 2], even columns in low bits;
// `quantized_weight_scale_factors`, the scales of 128 rows and 4 blocks as 32 x 16;
// `quantized_weight_amax`; `quantized_weight_metadata` [6]: both shapes and two switches.
class FourOverSixCodec : public Codec {
 public:
  explicit FourOverSixCodec(FourOverSixConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "fouroversix"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }

 private:
  absl::Status DecodeScales(const ModuleTensors& tensors, QuantizedTensor* out) const;

  FourOverSixConfig config_;
};

// The small tensors that upstream keeps beside a matrix of `weight`'s shape and dtype.
void MarkFourOverSix(const FourOverSixConfig& config, DType dtype, float absmax,
                     QuantizedTensor* weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_FOUROVERSIX_H_
