// FP-Quant (fp_quant 0.3.2, Transformers 5.23's FPQuantConfig): MXFP4 or NVFP4 weights under a
// rotation of their inputs, which upstream rounds to the same format whenever it runs. Files come
// in three forms: codes for QuTLASS' kernels; with `pseudoquantization` the values that they stand
// for, which Triton kernels compute; and with `store_master_weights` the weights themselves, which
// are quantized whenever they are used.
//
// The Triton kernels' results are proven against the package. QuTLASS needs a Blackwell GPU: of it,
// the arithmetic and the order of codes and scales are read from its source (epilogue_quant.h). Not
// copied: upstream scales QuTLASS' products by 1 / (weight_global_scale * act_global_scale) in
// bfloat16, which is 0.2 % more than 1/9, and adds biases of pseudoquantized layers twice.
#ifndef QUANTD_QUANTIZERS_CODECS_FP_QUANT_H_
#define QUANTD_QUANTIZERS_CODECS_FP_QUANT_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/solvers/rotated_fp4.h"

namespace quantd {

struct FpQuantConfig {
  std::string forward_dtype = "nvfp4";     // or mxfp4
  std::string forward_method = "abs_max";  // or, of mxfp4 alone, quest
  std::string backward_dtype = "bf16";     // for training only: bf16, or of mxfp4 mxfp8 or mxfp4
  bool store_master_weights = false;
  int64_t hadamard_group_size = 16;  // columns rotated together
  bool pseudoquantization = false;
  std::string transform_init = "hadamard";                        // or identity, gsr
  std::vector<std::string> modules_to_not_convert = {"lm_head"};  // ends of module names

  bool is_mx() const { return forward_dtype == "mxfp4"; }
  // How weights and inputs are rounded under these global scales.
  Fp4Blocks blocks(float global_scale) const;
  // What upstream fixes weight_global_scale and act_global_scale to.
  float global_scale() const { return forward_method == "quest" ? 1.0f : 3.0f; }
  // "nvfp4 abs_max, hadamard 16".
  std::string Describe() const;
};

// The default of hadamard_group_size.
int64_t FpQuantGroupOf(const std::string& forward_dtype);
// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<FpQuantConfig> ParseFpQuantConfig(const std::string& json);
absl::Status CheckFpQuantConfig(const FpQuantConfig& config);
// What upstream's layers cannot run with, though files may say it.
absl::Status CheckFpQuantRuns(const FpQuantConfig& config);
// Every key, as Transformers writes it.
std::string WriteFpQuantConfig(const FpQuantConfig& config);

// `qweight` U8 [rows, cols / 2], even columns in low bits, and `scales` U8 [rows, blocks], E8M0 or
// E4M3; or `dqweight`, the rotated matrix; or `weight`. With them `weight_global_scale` and
// `act_global_scale` [1], `forward_hadamard_matrix` and `backward_hadamard_matrix` [size, size].
//
// QuTLASS pads scales to multiples of 128 rows and 4 blocks, which fp_quant saves, but Transformers
// only loads scales of [rows, blocks], which its kernels take too: both are read, the second is
// written where the first was not read. Tensors without elements, which Transformers saves again of
// a loaded checkpoint, are kept.
class FpQuantCodec : public Codec {
 public:
  explicit FpQuantCodec(FpQuantConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "fp_quant"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 8; }

 private:
  // The tensor that holds the matrix: "qweight", "dqweight" or "weight".
  absl::string_view MatrixName() const;
  absl::Status ReadRotation(const ModuleTensors& tensors, RotatedFp4Spec* spec,
                            QuantizedTensor* out) const;
  // Other forms' tensors, which must be empty.
  absl::Status KeepEmpty(const ModuleTensors& tensors, QuantizedTensor* out) const;
  absl::Status DecodeCodes(const ModuleTensors& tensors, QuantizedTensor* out) const;
  absl::Status DecodeScales(const ModuleTensors& tensors, QuantizedTensor* out) const;

  FpQuantConfig config_;
};

// Quantizes a matrix of `weight`'s dtype as upstream's layer does, by a rotation as
// FpQuantRotation gives it, and notes what Encode writes beside it.
absl::StatusOr<QuantizedTensor> QuantizeFpQuant(const FpQuantConfig& config,
                                                const TensorView& weight,
                                                std::span<const float> rotation,
                                                const StopRequest& stopped);

// The codes and scales of `values` [rows, cols], which fp_quant has made of FP4 codes, in `out`:
// its shape, blocks, dequantized_dtype and post_scale are set. INVALID_ARGUMENT names the first
// block that is no such thing. `blocks` says which scales are likely.
absl::Status RecoverFp4(const Fp4Blocks& blocks, const TensorView& values, QuantizedTensor* out);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_FP_QUANT_H_
