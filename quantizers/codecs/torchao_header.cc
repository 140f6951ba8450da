#include "quantizers/codecs/torchao_header.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

using nlohmann::json;

json DTypeJson(DType dtype) {
  return {{"_type", "torch.dtype"}, {"_data", std::string(InfoOf(dtype).torch_name)}};
}

json AttributesOf(const AoScheme& scheme, const Shape& shape, DType dtype) {
  json data = {{"block_size", TorchAoBlockSize(scheme, shape)}};
  for (const auto& [key, text] : scheme.attributes) data[key] = json::parse(text, nullptr, false);
  switch (scheme.tensor) {
    case AoTensor::kInt8:
      data["dtype"] = DTypeJson(dtype);
      data["reduce_range"] = scheme.reduce_range;
      data.emplace("act_quant_kwargs", nullptr);
      break;
    case AoTensor::kInt4:
      data["shape"] = shape;
      data["activation_dtype"] = DTypeJson(DType::kBF16);
      break;
    case AoTensor::kIntx:
      data["dtype"] = DTypeJson(dtype);
      data["target_dtype"] = {{"_type", "torch.dtype"},
                              {"_data", absl::StrCat("int", scheme.bits)}};
      break;
    case AoTensor::kFloat8:
      data["dtype"] = DTypeJson(dtype);
      data.emplace("mm_config", nullptr);
      data.emplace("act_quant_kwargs", nullptr);
      data.emplace("kernel_preference", json{{"_type", "KernelPreference"}, {"_data", "AUTO"}});
      break;
  }
  return data;
}

json PartsOf(AoTensor tensor) {
  switch (tensor) {
    case AoTensor::kInt8:
      return {"zero_point", "qdata", "scale"};
    case AoTensor::kFloat8:
      return {"qdata", "scale"};
    default:
      return {"qdata", "scale", "zero_point"};
  }
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Shape TorchAoBlockSize(const AoScheme& scheme, const Shape& shape) {
  return {scheme.block.rows > 0 ? scheme.block.rows : shape[0],
          scheme.block.cols > 0 ? scheme.block.cols : shape[1]};
}

std::string TorchAoWeightText(const AoScheme& scheme, const Shape& shape, DType dtype) {
  return Dump({{"_type", std::string(NameOf(scheme.tensor))},
               {"_data", AttributesOf(scheme, shape, dtype)},
               {"_tensor_data_names", PartsOf(scheme.tensor)}});
}

std::string TorchAoPlainText() { return R"({"_type": "Tensor"})"; }

std::string TorchAoNamesText(const std::vector<WrittenParameter>& parameters) {
  json names = json::array();
  for (const WrittenParameter& parameter : parameters) names.push_back(parameter.name);
  return Dump(names);
}

absl::StatusOr<DType> CheckTorchAoText(const std::string& text, const AoScheme& scheme,
                                       const Shape& shape, DType fallback,
                                       absl::string_view where) {
  if (text.empty()) return fallback;
  ASSIGN_OR_RETURN(const json found,
                   ParseStrictJsonObject(text, absl::StrCat("the header's text on ", where)));
  const auto contradiction = [&](absl::string_view what, const json& value, const json& expected) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": the header says ", what, " ", DescribeJson(value).substr(0, 200),
                     ", expected ", Dump(expected), " from quantization_config"));
  };
  const json type = std::string(NameOf(scheme.tensor));
  if (found.value("_type", json()) != type) {
    return contradiction("_type", found.value("_type", json()), type);
  }
  const json data = found.value("_data", json::object());
  if (!data.is_object()) return contradiction("_data", data, json::object());
  const json expected = AttributesOf(scheme, shape, fallback);
  for (const char* key : {"block_size", "shape", "target_dtype"}) {
    if (!expected.contains(key)) continue;
    const json value = data.value(key, json());
    if (value != expected[key]) return contradiction(key, value, expected[key]);
  }
  const json dtype = data.value("dtype", json());
  if (dtype.is_null()) return fallback;
  if (dtype.is_object() && dtype.value("_data", json()).is_string()) {
    const auto named = DTypeFromTorch(dtype["_data"].get<std::string>());
    if (named == DType::kF32 || named == DType::kF16 || named == DType::kBF16) return *named;
  }
  return contradiction("dtype", dtype, DTypeJson(fallback));
}

}  // namespace quantd
