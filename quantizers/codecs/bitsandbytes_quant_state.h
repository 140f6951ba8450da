// The JSON document that bitsandbytes stores beside every 4-bit weight.
#ifndef QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_QUANT_STATE_H_
#define QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_QUANT_STATE_H_

#include <string>

#include "core/dtype.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct BnbQuantState {
  std::string quant_type;  // "nf4", "fp4"
  int64_t blocksize = 64;
  DType dtype = DType::kF32;  // of the source weight; dequantization returns it
  Shape shape;                // [out, in]
  bool is_nested = false;     // double quantization; the rest belongs to it
  int64_t nested_blocksize = 256;
  float nested_offset = 0;
};

// INVALID_ARGUMENT names `path` and the key. Unknown keys are refused as upstream does.
absl::StatusOr<BnbQuantState> ParseBnbQuantState(const std::string& json, const std::string& path);

// Byte for byte what Python's json.dumps makes of it.
std::string WriteBnbQuantState(const BnbQuantState& state);

// Python's repr() of a float.
std::string PythonRepr(double value);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_QUANT_STATE_H_
