#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"
#include "formats/gguf/gguf.h"

namespace quantd {
namespace {

constexpr absl::string_view kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                            "bool", "string", "array", "u64", "i64", "f64"};

std::string Describe(const GgufValue& value) {
  const std::string name(kTypeNames[static_cast<size_t>(value.type)]);
  const auto* array = std::get_if<GgufArray>(&value.value);
  if (array == nullptr) return name;
  return absl::StrCat("array of ", kTypeNames[static_cast<size_t>(array->element_type)]);
}

absl::Status WrongType(absl::string_view key, const GgufValue& value, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("GGUF key ", Quoted(key), " is of type ",
                                                 Describe(value), ", expected ", expected));
}

}  // namespace

const GgufValue* GgufMetadata::Find(absl::string_view key) const {
  for (const auto& [name, value] : entries_) {
    if (name == key) return &value;
  }
  return nullptr;
}

void GgufMetadata::Set(absl::string_view key, GgufValue value) {
  for (auto& [name, old] : entries_) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  Append(std::string(key), std::move(value));
}

void GgufMetadata::SetU32(absl::string_view key, uint32_t value) {
  Set(key, {GgufValueType::kU32, int64_t{value}});
}

void GgufMetadata::SetF32(absl::string_view key, float value) {
  Set(key, {GgufValueType::kF32, double{value}});
}

void GgufMetadata::SetBool(absl::string_view key, bool value) {
  Set(key, {GgufValueType::kBool, int64_t{value}});
}

void GgufMetadata::SetString(absl::string_view key, std::string value) {
  Set(key, {GgufValueType::kString, std::move(value)});
}

void GgufMetadata::SetStrings(absl::string_view key, std::vector<std::string> values) {
  GgufArray array;
  array.element_type = GgufValueType::kString;
  array.strings = std::move(values);
  Set(key, {GgufValueType::kArray, std::move(array)});
}

void GgufMetadata::Erase(absl::string_view key) {
  std::erase_if(entries_, [&](const auto& entry) { return entry.first == key; });
}

absl::StatusOr<std::optional<int64_t>> GgufMetadata::Integer(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const int64_t* integer = std::get_if<int64_t>(&value->value);
  if (integer == nullptr || value->type == GgufValueType::kBool) {
    return WrongType(key, *value, "an integer");
  }
  if (value->type == GgufValueType::kU64 && *integer < 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", Quoted(key), " is ",
                                                   static_cast<uint64_t>(*integer),
                                                   ", expected less than 2^63"));
  }
  return std::optional<int64_t>(*integer);
}

absl::StatusOr<std::optional<double>> GgufMetadata::Number(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  if (const double* number = std::get_if<double>(&value->value)) {
    return std::optional<double>(*number);
  }
  const auto integer = Integer(key);
  if (!integer.ok()) return WrongType(key, *value, "a number");
  return std::optional<double>(static_cast<double>(**integer));
}

absl::StatusOr<std::optional<std::string>> GgufMetadata::String(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<std::string>();
  const std::string* text = std::get_if<std::string>(&value->value);
  if (text == nullptr) return WrongType(key, *value, "string");
  return std::optional<std::string>(*text);
}

absl::StatusOr<std::optional<bool>> GgufMetadata::Bool(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type != GgufValueType::kBool) return WrongType(key, *value, "bool");
  return std::optional<bool>(std::get<int64_t>(value->value) != 0);
}

absl::StatusOr<const GgufArray*> GgufMetadata::Array(absl::string_view key,
                                                     GgufValueType element_type) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr || array->element_type != element_type) {
    return WrongType(key, *value,
                     absl::StrCat("array of ", kTypeNames[static_cast<size_t>(element_type)]));
  }
  return array;
}

}  // namespace quantd
