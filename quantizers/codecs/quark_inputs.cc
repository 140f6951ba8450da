#include "quantizers/codecs/quark_inputs.h"

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kScale[] = "input_scale";
constexpr char kZeroPoint[] = "input_zero_point";
constexpr char kRawScale[] = "input_quantizer.scale";
constexpr char kRawZeroPoint[] = "input_quantizer.zero_point";

// What has a static scale.
InputRounding RoundingOf(const QuarkSpec& spec) {
  InputRounding rounding;
  rounding.values = spec.values == QuarkSpec::Values::kInteger ? InputRounding::Values::kInteger
                    : spec.stored_dtype == DType::kF8E5M2      ? InputRounding::Values::kE5M2
                                                               : InputRounding::Values::kE4M3;
  rounding.bits = spec.bits;
  rounding.is_signed = spec.is_signed;
  rounding.by_reciprocal = true;
  rounding.symmetric = spec.symmetric;
  return rounding;
}

absl::Status CheckOneNumber(const ModuleTensors& tensors, const char* name) {
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
  if (NumElements(stored.shape) == 1) return absl::OkStatus();
  return TensorError(tensors, name,
                     absl::StrCat("found shape ", ToString(stored.shape), ", expected one number"));
}

}  // namespace

absl::StatusOr<InputRounding> DecodeQuarkInputs(const ModuleTensors& tensors,
                                                const QuarkSpec& spec) {
  const bool raw = !tensors.Has(kScale);
  const char* name = raw ? kRawScale : kScale;
  if (!tensors.Has(name)) return InputRounding();
  InputRounding rounding = RoundingOf(spec);
  RETURN_IF_ERROR(CheckOneNumber(tensors, name));
  ASSIGN_OR_RETURN(
      const std::vector<float> scale,
      ReadFiniteFloats(tensors, name, {DType::kBF16, DType::kF16, DType::kF32}, std::nullopt));
  if (scale[0] <= 0) {
    return TensorError(tensors, name,
                       absl::StrCat("found ", scale[0], ", expected a positive number"));
  }
  rounding.scale = scale[0];
  const char* zero = raw ? kRawZeroPoint : kZeroPoint;
  if (rounding.values != InputRounding::Values::kInteger || !tensors.Has(zero)) return rounding;
  RETURN_IF_ERROR(CheckOneNumber(tensors, zero));
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, zero, {DType::kI8, DType::kU8, DType::kI32}, std::nullopt));
  rounding.zero_point =
      static_cast<float>(stored.dtype == DType::kI32  ? Elements<int32_t>(stored)[0]
                         : stored.dtype == DType::kU8 ? int32_t{Elements<uint8_t>(stored)[0]}
                                                      : int32_t{Elements<int8_t>(stored)[0]});
  if (rounding.zero_point >= LowOf(rounding) && rounding.zero_point <= HighOf(rounding)) {
    return rounding;
  }
  return TensorError(
      tensors, zero,
      absl::StrCat("found ", rounding.zero_point, ", which does not fit ", spec.dtype));
}

void SetQuarkInputScale(const QuarkSpec& spec, float scale, float zero_point, DType scale_dtype,
                        QuantizedTensor* weight) {
  InputRounding& rounding = weight->input.rounding;
  rounding = RoundingOf(spec);
  rounding.scale = scale;
  rounding.zero_point = zero_point;
  KeepTensor(kScale, FloatTensor(scale_dtype, {}, {scale}), &weight->attributes);
  if (rounding.values != InputRounding::Values::kInteger) return;
  // The byte of the stored dtype, two's complement where that is signed.
  const std::vector<uint8_t> zero = {static_cast<uint8_t>(static_cast<int32_t>(zero_point))};
  KeepTensor(kZeroPoint, TensorOf<uint8_t>(spec.stored_dtype, {}, zero), &weight->attributes);
}

}  // namespace quantd
