#include "quantizers/codecs/compressed_tensors_inputs.h"

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

using Values = InputRounding::Values;

constexpr char kScale[] = "input_scale";
constexpr char kZeroPoint[] = "input_zero_point";
constexpr char kGlobalScale[] = "input_global_scale";

// Everything but static scales; kNone for what cannot be applied.
InputRounding RoundingOf(const CtArgs& args) {
  InputRounding rounding;
  rounding.bits = args.num_bits;
  rounding.symmetric = args.symmetric;
  rounding.dynamic = !args.is_static || args.is_local;
  const bool grouped =
      args.strategy == CtStrategy::kGroup || args.strategy == CtStrategy::kTensorGroup;
  rounding.group = grouped ? args.group_size : 0;
  const bool has_place = rounding.dynamic ? grouped || args.strategy == CtStrategy::kToken
                                          : args.strategy == CtStrategy::kTensor;
  const bool nvfp4 = args.is_local && args.is_float && args.num_bits == 4;
  const bool plain_scales = args.scale_dtype.empty() || nvfp4;
  const bool known_width = args.is_float ? args.num_bits == 8 || nvfp4 : args.num_bits <= 8;
  if (!has_place || !plain_scales || !known_width || (args.is_float && !args.symmetric)) {
    return rounding;
  }
  rounding.values = !args.is_float ? Values::kInteger : nvfp4 ? Values::kE2M1 : Values::kE4M3;
  return rounding;
}

// The one number of a tensor [1], [] or [1, 1].
absl::StatusOr<float> ReadScale(const ModuleTensors& tensors, const char* name) {
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
  if (NumElements(stored.shape) != 1 || stored.shape.size() > 2) {
    return TensorError(tensors, name,
                       absl::StrCat("found shape ", ToString(stored.shape), ", expected [1]"));
  }
  ASSIGN_OR_RETURN(
      const std::vector<float> value,
      ReadFiniteFloats(tensors, name, {DType::kBF16, DType::kF16, DType::kF32}, stored.shape));
  if (value[0] > 0) return value[0];
  return TensorError(tensors, name,
                     absl::StrCat("found ", value[0], ", expected a positive number"));
}

absl::StatusOr<float> ReadZeroPoint(const ModuleTensors& tensors, const InputRounding& rounding) {
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, kZeroPoint, {DType::kI8}, std::nullopt));
  const std::vector<int8_t> values = Elements<int8_t>(stored);
  if (values.size() != 1 || values[0] < LowOf(rounding) || values[0] > HighOf(rounding)) {
    return TensorError(tensors, kZeroPoint,
                       absl::StrCat("expected one number of ", rounding.bits, " bits"));
  }
  return static_cast<float>(values[0]);
}

}  // namespace

absl::Status CheckStaticInputs(const CtArgs& args, const std::string& where) {
  const auto refuse = [&](absl::string_view key, const std::string& problem) {
    return absl::UnimplementedError(absl::StrCat(where, ".", key, ": ", problem));
  };
  if (!args.is_local && args.strategy != CtStrategy::kTensor) {
    return refuse("strategy", absl::StrCat("found ", NameOf(args.strategy),
                                           ", expected tensor for inputs with static scales"));
  }
  if (args.observer != "" && args.observer != "minmax" && args.observer != "static_minmax" &&
      args.observer != "memoryless_minmax") {
    return refuse("observer", absl::StrCat("found ", args.observer.substr(0, 100),
                                           ", expected minmax, static_minmax or "
                                           "memoryless_minmax"));
  }
  if (args.is_local && args.observer != "static_minmax" && args.observer != "memoryless_minmax") {
    return refuse("observer",
                  absl::StrCat("found ", args.observer.empty() ? "nothing" : args.observer,
                               ", expected static_minmax or memoryless_minmax for "
                               "inputs in groups"));
  }
  const InputRounding rounding = RoundingOf(args);
  if (rounding.any() && (args.is_float || args.num_bits >= 2)) return absl::OkStatus();
  return refuse("num_bits", absl::StrCat("found ", args.num_bits, args.is_float ? " float" : " int",
                                         ", expected 2 to 8 int, 8 float symmetric or NVFP4's 4 "
                                         "float with dynamic \"local\""));
}

InputRounding DynamicCtInputs(const CtArgs& args) {
  return args.is_static ? InputRounding() : RoundingOf(args);
}

absl::StatusOr<InputRounding> DecodeCtInputs(const ModuleTensors& tensors, const CtArgs& args) {
  InputRounding rounding = RoundingOf(args);
  if (!rounding.any() || (rounding.dynamic && !args.is_local)) return rounding;
  const char* name = args.is_local ? kGlobalScale : kScale;
  if (!tensors.Has(name)) return InputRounding();
  ASSIGN_OR_RETURN(const float scale, ReadScale(tensors, name));
  if (args.is_local) {
    rounding.global_scale = scale;
    return rounding;
  }
  rounding.scale = scale;
  // Symmetric ones have none; old files carry a zero.
  if (!args.symmetric) {
    ASSIGN_OR_RETURN(rounding.zero_point, ReadZeroPoint(tensors, rounding));
  }
  return rounding;
}

void SetCtInputScale(const CtArgs& args, float scale, float zero_point, DType scale_dtype,
                     QuantizedTensor* weight) {
  InputRounding& rounding = weight->input.rounding;
  rounding = RoundingOf(args);
  if (args.is_local) {
    rounding.global_scale = scale;
    KeepTensor(kGlobalScale, FloatTensor(DType::kF32, {1}, {scale}), &weight->attributes);
    return;
  }
  rounding.scale = scale;
  rounding.zero_point = zero_point;
  KeepTensor(kScale, FloatTensor(scale_dtype, {1}, {scale}), &weight->attributes);
  if (args.symmetric) return;
  const std::vector<int8_t> zero = {static_cast<int8_t>(zero_point)};
  KeepTensor(kZeroPoint, TensorOf<int8_t>(DType::kI8, {1}, zero), &weight->attributes);
}

}  // namespace quantd
