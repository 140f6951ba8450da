// Typed access to the fields of one JSON object, for parsers that want every mistake to be an
// INVALID_ARGUMENT naming the field. The first mistake is kept; later reads give defaults.
// Private to this folder.
#ifndef QUANTD_FORMATS_HUGGINGFACE_JSON_FIELDS_H_
#define QUANTD_FORMATS_HUGGINGFACE_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd {

class JsonFields {
 public:
  // `path` says where the object stands, e.g. "tokenizer.json: decoder"; `status` outlives this.
  JsonFields(const nlohmann::json& object, std::string path, absl::Status* status);

  const std::string& path() const { return path_; }
  bool ok() const { return status_->ok(); }

  // The field, or nullptr when it is absent or null.
  const nlohmann::json* Find(const char* name) const;

  // Without `fallback` the field is required.
  bool Bool(const char* name, std::optional<bool> fallback = std::nullopt);
  std::string String(const char* name, std::optional<std::string> fallback = std::nullopt);
  int64_t Integer(const char* name, int64_t low, int64_t high,
                  std::optional<int64_t> fallback = std::nullopt);
  // Required; nullptr after a mistake.
  const nlohmann::json* Array(const char* name);
  const nlohmann::json* Object(const char* name);

  void Invalid(const char* name, absl::string_view reason);
  // RESOURCE_EXHAUSTED: well-formed, past a limit of ours.
  void TooLarge(const char* name, absl::string_view reason);
  void Unimplemented(const char* name, absl::string_view reason);

 private:
  const nlohmann::json* Required(const char* name);

  const nlohmann::json& object_;
  std::string path_;
  absl::Status* status_;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_JSON_FIELDS_H_
