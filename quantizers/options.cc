#include "quantizers/options.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

// Levenshtein distance; both texts are short (the callers cut them).
int EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, 200)), "\"");
}

// " (did you mean X?)" for the nearest name, when it is near: few edits, or one contains the other.
std::string Suggestion(absl::string_view name, const std::vector<OptionSpec>& specs) {
  const absl::string_view cut = name.substr(0, 64);
  const OptionSpec* best = nullptr;
  int best_distance = 0;
  for (const OptionSpec& spec : specs) {
    int distance = EditDistance(absl::AsciiStrToLower(cut), spec.name);
    if (cut.size() >= 4 && absl::string_view(spec.name).find(cut) != absl::string_view::npos) {
      distance = std::min(distance, 2);
    }
    if (best == nullptr || distance < best_distance) {
      best = &spec;
      best_distance = distance;
    }
  }
  if (best == nullptr || best_distance > static_cast<int>(best->name.size()) / 2) return "";
  return absl::StrCat(" (did you mean ", best->name, "?)");
}

std::string NamesOf(const std::vector<OptionSpec>& specs) {
  return absl::StrJoin(specs, ", ", [](std::string* out, const OptionSpec& spec) {
    absl::StrAppend(out, spec.name);
  });
}

bool ParseBool(absl::string_view text, bool* value) {
  const std::string lower = absl::AsciiStrToLower(text);
  *value = lower == "true" || lower == "1";
  return *value || lower == "false" || lower == "0";
}

absl::Status WrongValue(const OptionSpec& spec, absl::string_view value,
                        absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("option ", spec.name, ": found ", Quoted(value), ", expected ", expected));
}

// `value` in one spelling ("True" -> "true", "+4" -> "4"), or why it is not of the spec's type.
absl::StatusOr<std::string> Canonical(const OptionSpec& spec, absl::string_view value) {
  switch (spec.type) {
    case OptionSpec::Type::kInt: {
      int64_t number;
      if (!absl::SimpleAtoi(value, &number)) return WrongValue(spec, value, "an integer");
      return absl::StrCat(number);
    }
    case OptionSpec::Type::kBool: {
      bool flag;
      if (!ParseBool(value, &flag)) return WrongValue(spec, value, "true or false");
      return std::string(flag ? "true" : "false");
    }
    case OptionSpec::Type::kFloat: {
      double number;
      if (!absl::SimpleAtod(value, &number) || !std::isfinite(number)) {
        return WrongValue(spec, value, "a finite number");
      }
      return std::string(value);
    }
    case OptionSpec::Type::kString:
    case OptionSpec::Type::kStringList:
      return std::string(value);
  }
  return std::string(value);
}

absl::StatusOr<std::string> Check(const OptionSpec& spec, absl::string_view value) {
  if (value.size() > 65536) {
    return absl::InvalidArgumentError(absl::StrCat("option ", spec.name, ": the value has ",
                                                   value.size(),
                                                   " bytes, at most 65536 are allowed"));
  }
  ASSIGN_OR_RETURN(std::string text, Canonical(spec, value));
  if (spec.allowed.empty()) return text;
  for (const std::string& allowed : spec.allowed) {
    if (absl::EqualsIgnoreCase(allowed, text)) return allowed;  // "q4_k_m" is Q4_K_M
  }
  return WrongValue(spec, value, absl::StrCat("one of ", absl::StrJoin(spec.allowed, ", ")));
}

}  // namespace

OptionSpec ModulesToNotConvertSpec() {
  return {"modules_to_not_convert",
          OptionSpec::Type::kStringList,
          "",
          "modules to keep; unset: lm_head, tied weights, the last module",
          {}};
}

absl::StatusOr<Options> Options::Parse(const std::vector<OptionSpec>& specs,
                                       const std::map<std::string, std::string>& values) {
  Options options;
  for (const OptionSpec& spec : specs) options.values_[spec.name] = spec.default_value;
  for (const auto& [name, value] : values) {
    const auto spec = std::find_if(specs.begin(), specs.end(),
                                   [&name = name](const OptionSpec& s) { return s.name == name; });
    if (spec == specs.end()) {
      return absl::InvalidArgumentError(absl::StrCat("unknown option ", Quoted(name),
                                                     Suggestion(name, specs),
                                                     "; known options: ", NamesOf(specs)));
    }
    ASSIGN_OR_RETURN(options.values_[name], Check(*spec, value));
    options.given_[name] = true;
  }
  return options;
}

const std::string& Options::String(absl::string_view name) const {
  static const std::string unset;
  const auto it = values_.find(std::string(name));
  return it == values_.end() ? unset : it->second;
}

int64_t Options::Int(absl::string_view name) const {
  int64_t value = 0;
  return absl::SimpleAtoi(String(name), &value) ? value : 0;
}

double Options::Float(absl::string_view name) const {
  double value = 0;
  return absl::SimpleAtod(String(name), &value) ? value : 0;
}

bool Options::Bool(absl::string_view name) const { return String(name) == "true"; }

std::vector<std::string> Options::StringList(absl::string_view name) const {
  std::vector<std::string> items;
  for (absl::string_view item : absl::StrSplit(String(name), ',')) {
    item = absl::StripAsciiWhitespace(item);
    if (!item.empty()) items.emplace_back(item);
  }
  return items;
}

std::optional<std::vector<std::string>> Options::OptionalStringList(absl::string_view name) const {
  if (!IsSet(name)) return std::nullopt;
  return StringList(name);
}

bool Options::IsSet(absl::string_view name) const {
  const auto it = given_.find(std::string(name));
  return it != given_.end() && it->second;
}

}  // namespace quantd
