#include "quantizers/codecs/config_fields.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

constexpr size_t kMaxListItems = 4096;

}  // namespace

ConfigFields::ConfigFields(const nlohmann::json& object, std::string where)
    : object_(&object), where_(std::move(where)) {}

absl::StatusOr<ConfigFields> ConfigFields::Of(const nlohmann::json& value, std::string where) {
  if (value.is_object()) return ConfigFields(value, std::move(where));
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": found ", DescribeJson(value), ", expected an object"));
}

const nlohmann::json* ConfigFields::Find(absl::string_view key) {
  const std::string name(key);
  known_.insert(name);
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool ConfigFields::Contains(absl::string_view key) {
  known_.insert(std::string(key));
  return object_->contains(std::string(key));
}

bool ConfigFields::Has(absl::string_view key) { return Find(key) != nullptr; }

const nlohmann::json& ConfigFields::Raw(absl::string_view key) {
  static const nlohmann::json null;
  const nlohmann::json* value = Find(key);
  return value == nullptr ? null : *value;
}

absl::StatusOr<int64_t> ConfigFields::Int(absl::string_view key, int64_t fallback, int64_t min,
                                          int64_t max) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  // An unsigned number above the signed range is stored as such; it is out of every range we allow.
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (fits && value->get<int64_t>() >= min && value->get<int64_t>() <= max) {
    return value->get<int64_t>();
  }
  return Wrong(key, absl::StrCat("an integer from ", min, " to ", max));
}

absl::StatusOr<bool> ConfigFields::Bool(absl::string_view key, bool fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  return Wrong(key, "true or false");
}

absl::StatusOr<double> ConfigFields::Float(absl::string_view key, double fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) return value->get<double>();
  return Wrong(key, "a number");
}

absl::StatusOr<std::string> ConfigFields::String(absl::string_view key,
                                                 absl::string_view fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  return Wrong(key, "a string");
}

absl::StatusOr<std::vector<std::string>> ConfigFields::StringList(absl::string_view key) {
  std::vector<std::string> items;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return items;
  if (!value->is_array()) return Wrong(key, "a list of strings");
  if (value->size() > kMaxListItems) {
    return absl::InvalidArgumentError(absl::StrCat(
        Path(key), ": found ", value->size(), " items, at most ", kMaxListItems, " are allowed"));
  }
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) return Wrong(key, "a list of strings");
    items.push_back(item.get<std::string>());
  }
  return items;
}

absl::Status ConfigFields::RefuseUnknown() const {
  for (const auto& [key, value] : object_->items()) {
    if (known_.count(key) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(Path(key), ": unknown key; upstream refuses it too"));
    }
  }
  return absl::OkStatus();
}

absl::Status ConfigFields::Wrong(absl::string_view key, absl::string_view expected) const {
  const auto it = object_->find(std::string(key));
  const std::string found = it == object_->end() ? "nothing" : DescribeJson(*it);
  return absl::InvalidArgumentError(
      absl::StrCat(Path(key), ": found ", found, ", expected ", expected));
}

std::string ConfigFields::Path(absl::string_view key) const {
  const std::string name = absl::Utf8SafeCEscape(key.substr(0, 200));
  return where_.empty() ? name : absl::StrCat(where_, ".", name);
}

}  // namespace quantd
