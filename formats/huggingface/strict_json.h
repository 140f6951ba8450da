// JSON from outside, parsed strictly (RFC 8259, nothing more): bounded depth, no duplicate keys,
// valid UTF-8, no comments, no NaN, no number that does not fit, no byte order mark, nothing behind
// the end.
#ifndef QUANTD_FORMATS_HUGGINGFACE_STRICT_JSON_H_
#define QUANTD_FORMATS_HUGGINGFACE_STRICT_JSON_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

inline constexpr int kMaxJsonDepth = 32;

// The document in `text`. INVALID_ARGUMENT names `where` (the file) and the byte.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, absl::string_view where);
// The same, and the root must be an object.
absl::StatusOr<nlohmann::json> ParseStrictJsonObject(absl::string_view text,
                                                     absl::string_view where);

// Receives a document piece by piece, for files too large to keep as values. An error ends the
// parse.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual absl::Status BeginObject() = 0;
  virtual absl::Status Key(std::string& key) = 0;
  virtual absl::Status EndObject() = 0;
  virtual absl::Status BeginArray() = 0;
  virtual absl::Status EndArray() = 0;
  virtual absl::Status String(std::string& value) = 0;
  // Integers: `negative` ones as two's complement.
  virtual absl::Status Integer(uint64_t value, bool negative) = 0;
  virtual absl::Status Float(double value) = 0;
  virtual absl::Status Bool(bool value) = 0;
  virtual absl::Status Null() = 0;
};
// Depth is bounded here; duplicate keys are the receiver's to find. No string may be longer than
// `max_string` bytes as written.
absl::Status ParseJsonEvents(absl::string_view text, absl::string_view where, size_t max_string,
                             JsonEvents& events);

// `text` as a JSON string with its quotes; INVALID_ARGUMENT when it is not UTF-8.
absl::StatusOr<std::string> JsonQuote(absl::string_view text);

// "the string 'x'", "the number 3.5", "an array": what a message says was found.
std::string DescribeJson(const nlohmann::json& value);

// Typed access to the keys of an object. Every error is INVALID_ARGUMENT and names the file, the
// key, what was found and what was expected. An absent key and null are the same; required ones are
// errors.
class JsonFields {
 public:
  // `object` is kept by reference and must be an object.
  JsonFields(const nlohmann::json& object, absl::string_view where)
      : object_(object), where_(where) {}

  const nlohmann::json* Find(absl::string_view key) const;  // nullptr when absent or null

  // Integers written as such, in [min, max].
  absl::StatusOr<int64_t> Integer(absl::string_view key, int64_t min, int64_t max) const;
  absl::StatusOr<std::optional<int64_t>> OptionalInteger(absl::string_view key, int64_t min,
                                                         int64_t max) const;
  // Finite numbers, integers included.
  absl::StatusOr<double> Number(absl::string_view key) const;
  absl::StatusOr<std::optional<double>> OptionalNumber(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  absl::StatusOr<std::optional<std::string>> OptionalString(absl::string_view key) const;
  absl::StatusOr<std::optional<bool>> OptionalBool(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> OptionalStrings(absl::string_view key) const;
  // nullptr when absent.
  absl::StatusOr<const nlohmann::json*> OptionalObject(absl::string_view key) const;
  absl::StatusOr<const nlohmann::json*> OptionalArray(absl::string_view key) const;

  // INVALID_ARGUMENT "WHERE: KEY is FOUND, expected EXPECTED".
  absl::Status Wrong(absl::string_view key, absl::string_view expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_STRICT_JSON_H_
