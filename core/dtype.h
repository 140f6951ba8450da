// Element types of tensors as checkpoints store them.
#ifndef QUANTD_CORE_DTYPE_H_
#define QUANTD_CORE_DTYPE_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace quantd {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // float8_e4m3fn: max 448, no infinity
  kF8E5M2,
  kF8E8M0,      // power-of-two scale, value 2^(b-127)
  kF8E4M3FNUZ,  // max 240, no infinity, no minus zero: its code is NaN
};

// Facts of a dtype; one row per enumerator.
struct DTypeInfo {
  DType dtype;
  absl::string_view safetensors_name;  // "BF16"
  absl::string_view torch_name;        // "bfloat16"
  int bytes;
  bool is_float;
};

const DTypeInfo& InfoOf(DType dtype);
inline int SizeOf(DType dtype) { return InfoOf(dtype).bytes; }

// "F32", "BF16", "F8_E4M3", ... as safetensors headers spell them; nullopt when unknown.
std::optional<DType> DTypeFromSafetensors(absl::string_view name);
// "float32", "bfloat16", with or without a leading "torch."; nullopt when unknown.
std::optional<DType> DTypeFromTorch(absl::string_view name);

}  // namespace quantd

#endif  // QUANTD_CORE_DTYPE_H_
