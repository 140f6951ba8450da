#include "quantizers/codecs/gguf/metadata_fields.h"

#include <charconv>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace quantd::gguf {

absl::StatusOr<std::optional<int64_t>> IntegerIn(const GgufMetadata& metadata,
                                                 absl::string_view key, int64_t low, int64_t high) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, metadata.Integer(key));
  if (value && (*value < low || *value > high)) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", key, ": found ", *value, ", expected ", low, " to ", high));
  }
  return value;
}

absl::StatusOr<int64_t> RequiredInteger(const GgufMetadata& metadata, absl::string_view key,
                                        int64_t low, int64_t high) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, IntegerIn(metadata, key, low, high));
  if (!value) return absl::InvalidArgumentError(absl::StrCat("GGUF key ", key, " is missing"));
  return *value;
}

absl::StatusOr<std::optional<double>> PositiveNumber(const GgufMetadata& metadata,
                                                     absl::string_view key, double high) {
  ASSIGN_OR_RETURN(const std::optional<double> value, metadata.Number(key));
  if (value && !(std::isfinite(*value) && *value > 0 && *value <= high)) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", key, ": found ", *value,
                                                   ", expected a number above 0 and up to ", high));
  }
  if (!value || static_cast<float>(*value) != *value) return value;
  // Stored as float32: the shortest decimal with that float is what was meant (1e-5, not
  // 9.999999747e-6).
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(*value)).ptr;
  double shortest = *value;
  std::from_chars(text, end, shortest);
  return std::optional<double>(shortest);
}

std::string QuotedName(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, 200)), "\"");
}

}  // namespace quantd::gguf
