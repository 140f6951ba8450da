// Options of a method, as a request spells them: upstream's names, values as text. Checked against
// the method's list before anything reads them, so that unknown names and wrong values are refused
// by name.
#ifndef QUANTD_QUANTIZERS_OPTIONS_H_
#define QUANTD_QUANTIZERS_OPTIONS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

// What ListMethods and `quantctl methods NAME` show of one option; also how a value is checked.
struct OptionSpec {
  enum class Type { kInt, kBool, kFloat, kString, kStringList };
  std::string name;
  Type type = Type::kString;
  std::string default_value;  // as text; "" with `optional` means unset
  std::string description;
  std::vector<std::string> allowed;  // texts; empty: any of the type
};

// That of the modules to keep, where upstream's default is Transformers' automatic list.
OptionSpec ModulesToNotConvertSpec();

class Options {
 public:
  Options() = default;
  // Checks every key and value against `specs`. INVALID_ARGUMENT names an unknown key (and the
  // known ones) or a value that is not allowed (and the allowed ones).
  static absl::StatusOr<Options> Parse(const std::vector<OptionSpec>& specs,
                                       const std::map<std::string, std::string>& values);

  // Values after defaults. The name must be one of the specs.
  int64_t Int(absl::string_view name) const;
  double Float(absl::string_view name) const;
  bool Bool(absl::string_view name) const;
  const std::string& String(absl::string_view name) const;
  std::vector<std::string> StringList(absl::string_view name) const;  // comma separated
  bool IsSet(absl::string_view name) const;                           // given in the request
  // Without a value unless it is given in the request.
  std::optional<std::vector<std::string>> OptionalStringList(absl::string_view name) const;

 private:
  std::map<std::string, std::string> values_;
  std::map<std::string, bool> given_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_OPTIONS_H_
