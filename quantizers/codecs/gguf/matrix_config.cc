#include "quantizers/codecs/gguf/matrix_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr int64_t kLargestDimension = int64_t{1} << 31;

bool IsDimension(const nlohmann::json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() > 0 &&
         value.get<uint64_t>() < static_cast<uint64_t>(kLargestDimension);
}

}  // namespace

absl::StatusOr<std::optional<GgufMatrixConfig>> ParseGgufMatrixConfig(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("quant_method") || json["quant_method"] != "gguf") {
    return std::nullopt;
  }
  const GgmlTypeInfo* type = nullptr;
  if (json.contains("type") && json["type"].is_string()) {
    type = FindGgmlType(absl::string_view(json["type"].get_ref<const std::string&>()));
  }
  if (type == nullptr) {
    return absl::InvalidArgumentError(
        "quantization_config of a GGUF matrix needs `type`, a block type such as \"Q4_K\"");
  }
  if (!json.contains("shape") || !json["shape"].is_array() || json["shape"].size() != 2 ||
      !IsDimension(json["shape"][0]) || !IsDimension(json["shape"][1])) {
    return absl::InvalidArgumentError(
        "quantization_config of a GGUF matrix needs `shape`: [out, in], two positive integers");
  }
  return GgufMatrixConfig{type->type,
                          {json["shape"][0].get<int64_t>(), json["shape"][1].get<int64_t>()}};
}

std::string WriteGgufMatrixConfig(const GgufMatrixConfig& config) {
  const GgmlTypeInfo* type = FindGgmlType(static_cast<uint32_t>(config.type));
  return nlohmann::json{{"quant_method", "gguf"},
                        {"type", std::string(type->name.data(), type->name.size())},
                        {"shape", config.shape}}
      .dump();
}

}  // namespace quantd
