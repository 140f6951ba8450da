#include "quantizers/codecs/bitnet.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/row_slices.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/method.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/absmean.h"

namespace quantd {
namespace {

constexpr char kScale[] = "weight_scale";
constexpr char kNorm[] = "rms_norm.weight";
constexpr char kClass[] = "bitnet.linear_class";
constexpr char kNormDType[] = "bitnet.norm_dtype";

float LargestOf(DType dtype) { return dtype == DType::kF16 ? 65504.0f : 0x1.fep127f; }

// What every Linear does with its inputs.
void MarkInputs(const BitNetConfig& config, QuantizedTensor* out) {
  out->input.int8_tokens = true;
  out->input.norm_epsilon = static_cast<float>(config.rms_norm_eps);
  out->attributes.emplace(kClass, config.linear_class);
}

}  // namespace

absl::StatusOr<BitNetConfig> ParseBitNetConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  BitNetConfig config;
  ASSIGN_OR_RETURN(config.linear_class, fields.String("linear_class", config.linear_class));
  ASSIGN_OR_RETURN(config.quantization_mode,
                   fields.String("quantization_mode", config.quantization_mode));
  ASSIGN_OR_RETURN(config.use_rms_norm, fields.Bool("use_rms_norm", false));
  ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Float("rms_norm_eps", config.rms_norm_eps));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckBitNetConfig(config));
  return config;
}

absl::Status CheckBitNetConfig(const BitNetConfig& config) {
  const auto check = [](absl::string_view key, absl::string_view found, absl::string_view a,
                        absl::string_view b) {
    if (found == a || found == b) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": found \"", found.substr(0, 40), "\", expected ", a, " or ", b));
  };
  RETURN_IF_ERROR(check("linear_class", config.linear_class, "bitlinear", "autobitlinear"));
  RETURN_IF_ERROR(check("quantization_mode", config.quantization_mode, "offline", "online"));
  if (!(config.rms_norm_eps > 0) || !(config.rms_norm_eps < 1)) {
    return absl::InvalidArgumentError(absl::StrCat("rms_norm_eps: found ", config.rms_norm_eps,
                                                   ", expected a number between 0 and 1"));
  }
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteBitNetConfig(const BitNetConfig& config) {
  nlohmann::json json = {{"quant_method", "bitnet"},
                         {"linear_class", config.linear_class},
                         {"quantization_mode", config.quantization_mode},
                         {"use_rms_norm", config.use_rms_norm},
                         {"rms_norm_eps", config.rms_norm_eps},
                         {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void MarkBitNet(const BitNetConfig& config, const TensorView& weight, float absmean,
                QuantizedTensor* ternary) {
  MarkInputs(config, ternary);
  if (config.use_rms_norm) {
    ternary->input.norm_weight.assign(static_cast<size_t>(ternary->cols), 1.0f);
    ternary->attributes[kNormDType] = std::string(InfoOf(weight.dtype).safetensors_name);
  }
  if (config.is_online()) {
    ternary->unquantized =
        Tensor{weight.dtype, weight.shape, {weight.bytes.begin(), weight.bytes.end()}};
    return;
  }
  // BitLinear divides by its scale, AutoBitLinear multiplies with it.
  const float exact = config.is_auto() ? absmean : 1.0f / absmean;
  const float stored = std::min(RoundTo(weight.dtype, exact), LargestOf(weight.dtype));
  KeepTensor(kScale, FloatTensor(weight.dtype, {1}, {stored}), &ternary->attributes);
  ternary->scale = {config.is_auto() ? stored : 1.0f / stored};
  ternary->scale_dtype = weight.dtype;
  if (config.is_auto()) ternary->bias_scale = stored;
}

bool BitNetCodec::IsQuantized(const ModuleTensors& tensors) const {
  const auto weight = tensors.Describe("weight");
  if (tensors.Has(kScale) || (weight.ok() && weight->dtype == DType::kU8)) return true;
  if (!config_.is_online() || !weight.ok() || weight->shape.size() != 2) return false;
  const ModuleInfo module = MakeModuleInfo(
      {absl::StrCat(tensors.module(), ".weight"), weight->shape, false, "", 0}, model_);
  return module.is_linear && !IsSkipped(module, config_.modules_to_not_convert);
}

std::vector<std::string> BitNetCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"weight", kScale, kNorm}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> BitNetCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, "weight"));
  if (!config_.is_online()) shape[0] *= 4;
  return shape;
}

absl::Status BitNetCodec::ReadNorm(const ModuleTensors& tensors, QuantizedTensor* out) const {
  if (!config_.use_rms_norm) {
    if (!tensors.Has(kNorm)) return absl::OkStatus();
    return TensorError(tensors, kNorm,
                       "found a norm of the inputs, but the quantization_config says use_rms_norm "
                       "false; correct one of them");
  }
  ASSIGN_OR_RETURN(
      out->input.norm_weight,
      ReadFiniteFloats(tensors, kNorm, {DType::kF32, DType::kF16, DType::kBF16}, Shape{out->cols}));
  ASSIGN_OR_RETURN(const TensorView norm, tensors.Describe(kNorm));
  out->attributes[kNormDType] = std::string(InfoOf(norm.dtype).safetensors_name);
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> BitNetCodec::Decode(const ModuleTensors& tensors) const {
  if (!config_.is_online()) return DecodePacked(tensors);
  if (tensors.Has(kScale)) {
    return TensorError(tensors, kScale,
                       "found a stored scale, but quantization_mode online computes it; expected "
                       "quantization_mode offline");
  }
  ASSIGN_OR_RETURN(const Shape shape, ReadMatrixShape(tensors, "weight"));
  ASSIGN_OR_RETURN(Tensor weight,
                   ReadTensor(tensors, "weight", {DType::kF32, DType::kF16, DType::kBF16}, shape));
  std::vector<float> values(static_cast<size_t>(NumElements(shape)));
  LoadFloats(weight, 0, static_cast<int64_t>(values.size()), values.data());
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end()) {
    return TensorError(tensors, "weight",
                       absl::StrCat("element ", bad - values.begin(), " is not a finite number"));
  }
  // Upstream's forward pass does this every time.
  ASSIGN_OR_RETURN(const float absmean, AbsMeanOf(weight));
  ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeTernary(weight, absmean));
  MarkInputs(config_, &out);
  out.unquantized = std::move(weight);
  RETURN_IF_ERROR(ReadNorm(tensors, &out));
  return out;
}

absl::StatusOr<QuantizedTensor> BitNetCodec::DecodePacked(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape stored, ReadMatrixShape(tensors, "weight"));
  ASSIGN_OR_RETURN(const Tensor packed, ReadTensor(tensors, "weight", {DType::kU8}, stored));
  ASSIGN_OR_RETURN(
      const std::vector<float> scale,
      ReadFiniteFloats(tensors, kScale, {DType::kF32, DType::kF16, DType::kBF16}, Shape{1}));
  if (!(scale[0] > 0)) {
    return TensorError(tensors, kScale,
                       absl::StrCat("found ", scale[0], ", expected a positive number"));
  }
  QuantizedTensor out;
  out.rows = stored[0] * 4;
  out.cols = stored[1];
  out.grid = UniformGrid(2, /*is_signed=*/false);
  out.grid.first = -1;
  out.block = {.rows = 0, .cols = 0};
  out.codes = UnpackRowSlices(Elements<uint8_t>(packed), out.rows, out.cols, 2);
  out.scale = {config_.is_auto() ? scale[0] : 1.0f / scale[0]};
  if (config_.is_auto()) out.bias_scale = scale[0];
  ASSIGN_OR_RETURN(const Tensor stored_scale, tensors.Read(kScale));
  out.scale_dtype = stored_scale.dtype;
  KeepTensor(kScale, stored_scale, &out.attributes);
  MarkInputs(config_, &out);
  RETURN_IF_ERROR(ReadNorm(tensors, &out));
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> BitNetCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string linear_class, RequireAttribute(weight, kClass, "bitnet"));
  if (linear_class != config_.linear_class ||
      weight.unquantized.has_value() != config_.is_online()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a matrix of ", linear_class, weight.unquantized ? " online" : " offline",
        " cannot be written as ", config_.linear_class, " ", config_.quantization_mode));
  }
  std::vector<NamedTensor> out;
  if (weight.unquantized) {
    out.push_back({"weight", *weight.unquantized});
  } else {
    const std::vector<uint8_t> bytes = PackRowSlices(weight.codes, weight.rows, weight.cols, 2);
    out.push_back(
        {"weight",
         TensorOf<uint8_t>(
             DType::kU8, {static_cast<int64_t>(bytes.size()) / weight.cols, weight.cols}, bytes)});
  }
  if (!weight.input.norm_weight.empty()) {
    const DType dtype = DTypeFromSafetensors(Attribute(weight, kNormDType)).value_or(DType::kF32);
    out.push_back({kNorm, FloatTensor(dtype, {weight.cols}, weight.input.norm_weight)});
  }
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd
