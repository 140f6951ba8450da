// Weights in float8_e4m3fn with float scales: FINEGRAINED_FP8 (DeepSeek's tiles), MXFP8 and
// FBGEMM_FP8 (rows) of Transformers 5.23.
#ifndef QUANTD_QUANTIZERS_CODECS_FP8_H_
#define QUANTD_QUANTIZERS_CODECS_FP8_H_

#include "quantizers/codecs/codec.h"

namespace quantd {

// How a flavour names and shapes its scales.
struct Fp8Layout {
  absl::string_view quant_method;  // "fp8", "mxfp8", "fbgemm_fp8"
  BlockShape tile;                 // what shares a scale; ragged at the edges
  DType dequantized_dtype = DType::kBF16;
  bool follows_loaded_dtype = false;               // as of QuantizedTensor
  absl::string_view scale_name;                    // as written
  DType scale_dtype = DType::kF32;                 // as written
  InputRounding inputs;                            // what upstream does to them
  std::optional<DType> bias_dtype = std::nullopt;  // Codec::BiasDType
};

// Inputs get one stored scale (`static_inputs`), else one for as many columns as a tile has.
Fp8Layout FineGrainedFp8Layout(const BlockShape& tile, bool power_of_two, DType model_dtype,
                               bool static_inputs);
// Inputs get a scale a token, of magnitudes up to `upper_bound`.
Fp8Layout FbgemmFp8Layout(double upper_bound);

// Adds FINEGRAINED_FP8's activation_scale to `weight`, as a tensor to write and as rounding.
void SetFp8InputScale(float scale, QuantizedTensor* weight);

class Fp8Codec : public Codec {
 public:
  explicit Fp8Codec(const Fp8Layout& layout) : layout_(layout) {}

  absl::string_view quant_method() const override { return layout_.quant_method; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }
  std::optional<DType> BiasDType() const override { return layout_.bias_dtype; }

 private:
  // The local name that holds the scales, by any of its spellings; "" when there is none.
  std::string FindScale(const ModuleTensors& tensors) const;
  absl::Status DecodeScales(const ModuleTensors& tensors, QuantizedTensor* out) const;
  absl::StatusOr<InputRounding> DecodeInputs(const ModuleTensors& tensors) const;

  Fp8Layout layout_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_FP8_H_
