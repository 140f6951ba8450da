#include "quantizers/codecs/metal.h"

#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 24;
constexpr char kScales[] = "scales";
constexpr char kBiases[] = "qbiases";

}  // namespace

absl::StatusOr<MetalConfig> ParseMetalConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  MetalConfig config;
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("bits", config.bits, 2, 8));
  config.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(config.group_size, fields.Int("group_size", config.group_size, 1, kMaxGroup));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckMetalConfig(config));
  return config;
}

absl::Status CheckMetalConfig(const MetalConfig& config) {
  if (config.bits != 2 && config.bits != 4 && config.bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: found ", config.bits, ", expected 2, 4 or 8"));
  }
  if (config.group_size < 1 || config.group_size > kMaxGroup) {
    return absl::InvalidArgumentError(
        absl::StrCat("group_size: found ", config.group_size, ", expected 1 to ", kMaxGroup));
  }
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteMetalConfig(const MetalConfig& config) {
  nlohmann::json json = {{"quant_method", "metal"},
                         {"bits", config.bits},
                         {"group_size", config.group_size},
                         {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status CheckMetalShape(const MetalConfig& config, int64_t cols) {
  const int64_t per_word = 32 / config.bits;
  if (cols % config.group_size == 0 && cols % per_word == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("group_size ", config.group_size, " or the ", per_word,
                   " codes of a word do not divide ", cols,
                   " columns; take another group_size or name the module in "
                   "modules_to_not_convert"));
}

bool MetalCodec::IsQuantized(const ModuleTensors& tensors) const {
  if (tensors.Has(kScales) || tensors.Has(kBiases)) return true;
  const auto weight = tensors.Describe("weight");
  return weight.ok() && weight->dtype == DType::kU32;
}

int64_t MetalCodec::GroupSizeOf(const ModuleInfo& module) const {
  return IsSkipped(module, config_.modules_to_not_convert) ? 0 : config_.group_size;
}

std::vector<std::string> MetalCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"weight", kScales, kBiases}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> MetalCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, "weight"));
  shape[1] *= 32 / config_.bits;
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight", shape));
  if (absl::Status status = CheckMetalShape(config_, shape[1]); !status.ok()) {
    return TensorError(tensors, "weight", status.message());
  }
  return shape;
}

absl::StatusOr<QuantizedTensor> MetalCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, "weight", {DType::kU32},
                                                  Shape{out.rows, out.cols * config_.bits / 32}));
  out.grid = UniformGrid(config_.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = config_.group_size};
  const Shape groups = {out.rows, out.cols / config_.group_size};
  ASSIGN_OR_RETURN(out.scale, ReadFiniteFloats(tensors, kScales,
                                               {DType::kF16, DType::kBF16, DType::kF32}, groups));
  ASSIGN_OR_RETURN(const TensorView scales, tensors.Describe(kScales));
  out.scale_dtype = out.dequantized_dtype = scales.dtype;
  ASSIGN_OR_RETURN(out.offset, ReadFiniteFloats(tensors, kBiases, {scales.dtype}, groups));
  out.codes =
      UnpackWords(Elements<uint32_t>(words), out.rows, out.cols, config_.bits, WordPacking::kDense);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> MetalCodec::Encode(const QuantizedTensor& weight) const {
  const auto groups = static_cast<size_t>(weight.rows * weight.cols / config_.group_size);
  const bool fits = weight.grid.kind == Grid::Kind::kUniform && weight.grid.first == 0 &&
                    weight.grid.bits == config_.bits && weight.block.cols == config_.group_size &&
                    weight.scale.size() == groups && weight.offset.size() == groups &&
                    weight.zero_point.empty();
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", weight.rows, "x", weight.cols,
                     " cannot be written as metal: expected unsigned codes of ", config_.bits,
                     " bits with a scale and an offset for ", config_.group_size, " columns"));
  }
  const Shape shape = {weight.rows, weight.cols / config_.group_size};
  std::vector<NamedTensor> out;
  out.push_back(
      {"weight", TensorOf<uint32_t>(DType::kU32, {weight.rows, weight.cols * config_.bits / 32},
                                    PackWords(weight.codes, weight.rows, weight.cols, config_.bits,
                                              WordPacking::kDense))});
  out.push_back({kScales, FloatTensor(weight.scale_dtype, shape, weight.scale)});
  out.push_back({kBiases, FloatTensor(weight.scale_dtype, shape, weight.offset)});
  return out;
}

}  // namespace quantd
