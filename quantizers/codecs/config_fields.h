// Reading the JSON objects of quantization configs key by key: every value is checked for its type
// and range where it is read, and every error names the key, what was found and what was expected.
// Private to quantizers/codecs; nothing else sees JSON types.
#ifndef QUANTD_QUANTIZERS_CODECS_CONFIG_FIELDS_H_
#define QUANTD_QUANTIZERS_CODECS_CONFIG_FIELDS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/status.h"
#include "nlohmann/json_fwd.hpp"

namespace quantd {

class ConfigFields {
 public:
  // `object` outlives this. `where` prefixes keys in messages: "config_groups.group_0.weights".
  ConfigFields(const nlohmann::json& object, std::string where);

  // INVALID_ARGUMENT unless the value is an object; for nested objects.
  static absl::StatusOr<ConfigFields> Of(const nlohmann::json& value, std::string where);

  // Present, be it null.
  bool Contains(absl::string_view key);
  // Present and not null. Marks the key as known.
  bool Has(absl::string_view key);
  // The value of a key for which Has() is true.
  const nlohmann::json& Raw(absl::string_view key);

  // The value, or `fallback` when the key is absent or null.
  absl::StatusOr<int64_t> Int(absl::string_view key, int64_t fallback, int64_t min, int64_t max);
  absl::StatusOr<bool> Bool(absl::string_view key, bool fallback);
  absl::StatusOr<double> Float(absl::string_view key, double fallback);
  absl::StatusOr<std::string> String(absl::string_view key, absl::string_view fallback);
  absl::StatusOr<std::vector<std::string>> StringList(absl::string_view key);

  // INVALID_ARGUMENT naming a key that nothing has asked for.
  absl::Status RefuseUnknown() const;

  // "where.key: found <value>, expected <expected>".
  absl::Status Wrong(absl::string_view key, absl::string_view expected) const;
  std::string Path(absl::string_view key) const;

 private:
  const nlohmann::json* Find(absl::string_view key);

  const nlohmann::json* object_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_CONFIG_FIELDS_H_
