#include "quantizers/codecs/eetq.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kWeightName[] = "eetq.weight_name";

// Input feature that lies at place t of 16 (the order of ldmatrix on 8-bit operands).
constexpr int kInputOrder[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

// Calls body(place of the byte, index of the code [out, in]) for all bytes. Two output features
// alternate in runs of 64 input features; every 16 are permuted, and of every 4 bytes the middle
// ones change places.
template <class Body>
void ForEachByte(int64_t out, int64_t in, const Body& body) {
  ParallelFor(out / 2, [&](int64_t pair) {
    int64_t place = pair * 2 * in;
    for (int64_t tile = 0; tile < in; tile += kEetqTile) {
      for (int64_t row = 2 * pair; row < 2 * pair + 2; ++row) {
        for (int64_t t = 0; t < kEetqTile; ++t, ++place) {
          const int64_t swapped = t % 4 == 1 ? t + 1 : t % 4 == 2 ? t - 1 : t;
          const int64_t input = tile + swapped / 16 * 16 + kInputOrder[swapped % 16];
          body(place, row * in + input);
        }
      }
    }
  });
}

// The local name of the stored codes; "" when there are none.
std::string FindWeight(const ModuleTensors& tensors) {
  for (const char* name : {"weight", "qweight"}) {
    if (tensors.Has(name)) return name;
  }
  return "";
}

}  // namespace

absl::StatusOr<EetqConfig> ParseEetqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  EetqConfig config;
  ASSIGN_OR_RETURN(const std::string weights, fields.String("weights", "int8"));
  if (weights != "int8") return fields.Wrong("weights", "\"int8\", the only type that EETQ has");
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckEetqConfig(config));
  return config;
}

absl::Status CheckEetqConfig(const EetqConfig& config) {
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteEetqConfig(const EetqConfig& config) {
  nlohmann::json json = {
      {"quant_method", "eetq"}, {"weights", "int8"}, {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::vector<uint8_t> PackEetq(std::span<const uint8_t> codes, int64_t out, int64_t in) {
  std::vector<uint8_t> bytes(codes.size());
  ForEachByte(out, in, [&](int64_t place, int64_t code) { bytes[place] = codes[code]; });
  return bytes;
}

std::vector<uint8_t> UnpackEetq(std::span<const uint8_t> bytes, int64_t out, int64_t in) {
  std::vector<uint8_t> codes(bytes.size());
  ForEachByte(out, in, [&](int64_t place, int64_t code) { codes[code] = bytes[place]; });
  return codes;
}

bool EetqCodec::IsQuantized(const ModuleTensors& tensors) const {
  if (tensors.Has("weight_scales") || tensors.Has("qweight")) return true;
  // A weight of integers whose scales are missing is broken, not plain.
  const auto weight = tensors.Describe("weight");
  return weight.ok() && weight->dtype == DType::kI8;
}

std::vector<std::string> EetqCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"weight", "qweight", "weight_scales"}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> EetqCodec::MatrixShape(const ModuleTensors& tensors) const {
  const std::string name = FindWeight(tensors);
  ASSIGN_OR_RETURN(const Shape stored, ReadMatrixShape(tensors, name.empty() ? "weight" : name));
  if (stored[0] % kEetqTile == 0 && stored[1] % kEetqTile == 0) return Shape{stored[1], stored[0]};
  return TensorError(tensors, name,
                     absl::StrCat("found the shape ", ToString(stored), ", expected [in, out] in ",
                                  "multiples of ", kEetqTile, ", which EETQ's kernels need"));
}

absl::StatusOr<QuantizedTensor> EetqCodec::Decode(const ModuleTensors& tensors) const {
  if (tensors.Has("weight") && tensors.Has("qweight")) {
    return TensorError(tensors, "qweight", "the module has `weight` too; expected one of them");
  }
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  const std::string name = FindWeight(tensors);
  ASSIGN_OR_RETURN(const Tensor weight,
                   ReadTensor(tensors, name, {DType::kI8}, Shape{shape[1], shape[0]}));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  ASSIGN_OR_RETURN(out.scale,
                   ReadFiniteFloats(tensors, "weight_scales",
                                    {DType::kF16, DType::kBF16, DType::kF32}, Shape{out.rows}));
  ASSIGN_OR_RETURN(const TensorView scales, tensors.Describe("weight_scales"));
  out.scale_dtype = scales.dtype;
  out.codes = UnpackEetq(Elements<uint8_t>(weight), out.rows, out.cols);
  out.attributes[kWeightName] = name;
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> EetqCodec::Encode(const QuantizedTensor& weight) const {
  const bool fits = weight.rows % kEetqTile == 0 && weight.cols % kEetqTile == 0 &&
                    weight.grid.kind == Grid::Kind::kUniform && weight.grid.first == -128 &&
                    weight.codes.size() == static_cast<size_t>(weight.rows * weight.cols) &&
                    weight.scale.size() == static_cast<size_t>(weight.rows) &&
                    weight.zero_point.empty() && weight.offset.empty();
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a matrix of ", weight.rows, "x", weight.cols,
        " cannot be written as eetq: expected int8 rows with one scale each, in multiples of ",
        kEetqTile));
  }
  const std::string name = Attribute(weight, kWeightName);
  std::vector<NamedTensor> out;
  out.push_back({name.empty() ? "weight" : name,
                 TensorOf<uint8_t>(DType::kI8, {weight.cols, weight.rows},
                                   PackEetq(weight.codes, weight.rows, weight.cols))});
  out.push_back({"weight_scales", FloatTensor(weight.scale_dtype, {weight.rows}, weight.scale)});
  return out;
}

}  // namespace quantd
