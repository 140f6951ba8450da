#include "formats/huggingface/sentence_transformers.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

// Exactly one pooling_mode_* must be on, as in the class Pooling of sentence-transformers.
absl::Status ApplyPooling(const std::string& text, const std::string& file, ModelConfig* config) {
  ASSIGN_OR_RETURN(const Json json, ParseStrictJsonObject(text, file));
  const JsonFields fields(json, file);
  ASSIGN_OR_RETURN(const auto width,
                   fields.OptionalInteger("word_embedding_dimension", 1, 1 << 30));
  if (width && *width != config->hidden_size) {
    return fields.Wrong("word_embedding_dimension",
                        absl::StrCat("hidden_size ", config->hidden_size));
  }
  constexpr std::pair<absl::string_view, absl::string_view> kModes[] = {
      {"pooling_mode_mean_tokens", "mean"},
      {"pooling_mode_cls_token", "cls"},
      {"pooling_mode_max_tokens", "max"}};
  std::string pooling;
  int modes = 0;
  for (const auto& [key, name] : kModes) {
    ASSIGN_OR_RETURN(const auto on, fields.OptionalBool(key));
    if (!on.value_or(false)) continue;
    pooling = std::string(name);
    ++modes;
  }
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    const bool known = std::any_of(std::begin(kModes), std::end(kModes),
                                   [&](const auto& mode) { return mode.first == key; });
    if (absl::StartsWith(key, "pooling_mode_") && !known && item.value().is_boolean() &&
        item.value().get<bool>()) {
      return absl::UnimplementedError(
          absl::StrCat(file, ": ", EscapedName(key), " is not supported, only mean, cls and max"));
    }
  }
  if (modes != 1) {
    return modes == 0 ? absl::InvalidArgumentError(absl::StrCat(file, ": no pooling mode is on"))
                      : absl::UnimplementedError(absl::StrCat(
                            file, ": several pooling modes at once are not supported"));
  }
  config->pooling = pooling;
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplySentenceTransformers(const std::map<std::string, std::string>& side_files,
                                       ModelConfig* config) {
  constexpr char kModules[] = "modules.json";
  const auto modules = side_files.find(kModules);
  if (modules == side_files.end() || !config->is_encoder()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Json json, ParseStrictJson(modules->second, kModules));
  if (!json.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kModules, ": found ", DescribeJson(json), ", expected an array of modules"));
  }
  for (const Json& module : json) {
    if (!module.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kModules, ": found ", DescribeJson(module), ", expected a module object"));
    }
    const JsonFields fields(module, kModules);
    ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
    if (absl::EndsWith(type, ".Transformer")) continue;
    if (absl::EndsWith(type, ".Normalize")) {
      config->normalize_embedding = true;
    } else if (absl::EndsWith(type, ".Pooling")) {
      ASSIGN_OR_RETURN(const std::string path, fields.String("path"));
      const std::string file = absl::StrCat(path, "/config.json");
      const auto content = side_files.find(file);
      if (content == side_files.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(kModules, ": pooling module ", Quoted(path), " has no config.json"));
      }
      RETURN_IF_ERROR(ApplyPooling(content->second, EscapedName(file), config));
    } else {
      return absl::UnimplementedError(
          absl::StrCat(kModules, ": module ", Quoted(type), " is not supported"));
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd
