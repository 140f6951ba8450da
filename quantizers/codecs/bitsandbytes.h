// bitsandbytes: NF4 and FP4 blocks with optional double quantization, and LLM.int8 rows
// (bitsandbytes 0.50.2, functional.py QuantState.as_dict and nn/modules.py; Transformers 5.23).
#ifndef QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_H_
#define QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_H_

#include "quantizers/codecs/codec.h"

namespace quantd {

// Attributes of a QuantizedTensor that the codec writes. "bnb.quant_type" is "nf4", "fp4" or
// "int8"; "bnb.storage" the torch name of the dtype that carries the packed bytes ("uint8").
inline constexpr char kBnbQuantType[] = "bnb.quant_type";
inline constexpr char kBnbStorage[] = "bnb.storage";

// LLM.int8 dequantizes as code * row absmax * this (bitsandbytes' constant for 1/127).
inline constexpr float kInverse127 = 7.874015718698502e-3f;

// Gives an LLM.int8 matrix, fresh from its solver, what the codec writes beside it.
void MarkLlmInt8(QuantizedTensor* weight);

// Block size, shape and dtypes come from each tensor's own quant_state, so one codec reads all.
class BitsAndBytesCodec : public Codec {
 public:
  absl::string_view quant_method() const override { return "bitsandbytes"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 6; }
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_H_
