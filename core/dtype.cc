#include "core/dtype.h"

#include "absl/strings/strip.h"

namespace quantd {
namespace {

constexpr DTypeInfo kDTypes[] = {
    {DType::kBool, "BOOL", "bool", 1, false},
    {DType::kU8, "U8", "uint8", 1, false},
    {DType::kI8, "I8", "int8", 1, false},
    {DType::kU16, "U16", "uint16", 2, false},
    {DType::kI16, "I16", "int16", 2, false},
    {DType::kU32, "U32", "uint32", 4, false},
    {DType::kI32, "I32", "int32", 4, false},
    {DType::kU64, "U64", "uint64", 8, false},
    {DType::kI64, "I64", "int64", 8, false},
    {DType::kF64, "F64", "float64", 8, true},
    {DType::kF32, "F32", "float32", 4, true},
    {DType::kF16, "F16", "float16", 2, true},
    {DType::kBF16, "BF16", "bfloat16", 2, true},
    {DType::kF8E4M3, "F8_E4M3", "float8_e4m3fn", 1, true},
    {DType::kF8E5M2, "F8_E5M2", "float8_e5m2", 1, true},
    {DType::kF8E8M0, "F8_E8M0", "float8_e8m0fnu", 1, true},
    {DType::kF8E4M3FNUZ, "F8_E4M3FNUZ", "float8_e4m3fnuz", 1, true},
};

}  // namespace

const DTypeInfo& InfoOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

std::optional<DType> DTypeFromSafetensors(absl::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.safetensors_name == name) return info.dtype;
  }
  return std::nullopt;
}

std::optional<DType> DTypeFromTorch(absl::string_view name) {
  absl::ConsumePrefix(&name, "torch.");
  for (const DTypeInfo& info : kDTypes) {
    if (info.torch_name == name) return info.dtype;
  }
  return std::nullopt;
}

}  // namespace quantd
