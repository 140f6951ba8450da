#include "formats/huggingface/json_fields.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {

using nlohmann::json;

JsonFields::JsonFields(const json& object, std::string path, absl::Status* status)
    : object_(object), path_(std::move(path)), status_(status) {
  if (!object.is_object() && status_->ok()) {
    *status_ = absl::InvalidArgumentError(
        absl::StrCat(path_, ": expected an object, found ", object.type_name()));
  }
}

const json* JsonFields::Find(const char* name) const {
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const json* JsonFields::Required(const char* name) {
  const json* field = Find(name);
  if (field == nullptr) Invalid(name, "missing");
  return field;
}

bool JsonFields::Bool(const char* name, std::optional<bool> fallback) {
  const json* field = fallback ? Find(name) : Required(name);
  if (field == nullptr) return fallback.value_or(false);
  if (!field->is_boolean()) {
    Invalid(name, absl::StrCat("expected a boolean, found ", field->type_name()));
    return false;
  }
  return field->get<bool>();
}

std::string JsonFields::String(const char* name, std::optional<std::string> fallback) {
  const json* field = fallback ? Find(name) : Required(name);
  if (field == nullptr) return std::move(fallback).value_or("");
  if (!field->is_string()) {
    Invalid(name, absl::StrCat("expected a string, found ", field->type_name()));
    return "";
  }
  return field->get_ref<const std::string&>();
}

int64_t JsonFields::Integer(const char* name, int64_t low, int64_t high,
                            std::optional<int64_t> fallback) {
  const json* field = fallback ? Find(name) : Required(name);
  if (field == nullptr) return fallback.value_or(low);
  bool inside = field->is_number_integer();
  if (inside && field->is_number_unsigned()) {
    inside = field->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  const int64_t value = inside ? field->get<int64_t>() : 0;
  if (!inside || value < low || value > high) {
    Invalid(name, absl::StrCat("expected an integer from ", low, " to ", high));
    return low;
  }
  return value;
}

const json* JsonFields::Array(const char* name) {
  const json* field = Required(name);
  if (field == nullptr || field->is_array()) return field;
  Invalid(name, absl::StrCat("expected an array, found ", field->type_name()));
  return nullptr;
}

const json* JsonFields::Object(const char* name) {
  const json* field = Required(name);
  if (field == nullptr || field->is_object()) return field;
  Invalid(name, absl::StrCat("expected an object, found ", field->type_name()));
  return nullptr;
}

void JsonFields::Invalid(const char* name, absl::string_view reason) {
  if (status_->ok()) {
    *status_ = absl::InvalidArgumentError(absl::StrCat(path_, ".", name, ": ", reason));
  }
}

void JsonFields::TooLarge(const char* name, absl::string_view reason) {
  if (status_->ok()) {
    *status_ = absl::ResourceExhaustedError(absl::StrCat(path_, ".", name, ": ", reason));
  }
}

void JsonFields::Unimplemented(const char* name, absl::string_view reason) {
  if (status_->ok()) {
    *status_ = absl::UnimplementedError(absl::StrCat(path_, ".", name, ": ", reason));
  }
}

}  // namespace quantd
