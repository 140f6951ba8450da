#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"
#include "models/tokenizers/unicode.h"

namespace quantd::jinja {
namespace {

// Whether strip() takes the character off: one of `characters`, or white space without them.
bool IsStripped(char32_t c, const Value& characters) {
  if (!characters.IsString()) return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F);
  for (size_t i = 0; i < characters.String().size();) {
    if (NextCharacter(characters.String(), &i) == c) return true;
  }
  return false;
}

bool StartsOrEnds(const std::string& self, const Value& affix, bool start) {
  if (affix.IsList()) {
    return std::any_of(affix.AsList().begin(), affix.AsList().end(),
                       [&](const Value& one) { return StartsOrEnds(self, one, start); });
  }
  if (!affix.IsString()) return false;
  return start ? absl::StartsWith(self, affix.String()) : absl::EndsWith(self, affix.String());
}

// Without overlaps; `part` is not empty.
int64_t Occurrences(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++count) {
    at += part.size();
  }
  return count;
}

}  // namespace

std::string StripText(absl::string_view text, const Value& characters, bool left, bool right) {
  size_t begin = text.size(), end = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    if (IsStripped(NextCharacter(text, &i), characters)) continue;
    begin = std::min(begin, at);
    end = i;
  }
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? std::string(text.substr(begin, end - begin)) : "";
}

std::string ReplaceText(absl::string_view text, absl::string_view from, absl::string_view to,
                        int64_t limit) {
  if (from.empty()) return std::string(text);
  std::string out;
  size_t at = 0, next = 0;
  while (limit-- != 0 && (next = text.find(from, at)) != absl::string_view::npos) {
    absl::StrAppend(&out, text.substr(at, next - at), to);
    at = next + from.size();
  }
  absl::StrAppend(&out, text.substr(at));
  return out;
}

std::string UpperText(absl::string_view text) { return absl::AsciiStrToUpper(text); }

std::string LowerText(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) AppendLowercase(NextCharacter(text, &i), &out);
  return out;
}

std::string CapitalizeText(absl::string_view text) {
  std::string out = LowerText(text);
  if (!out.empty()) out[0] = absl::ascii_toupper(out[0]);
  return out;
}

std::string TitleText(absl::string_view text) {
  std::string out = LowerText(text);
  bool inside = false;
  for (char& c : out) {
    const bool letter = absl::ascii_isalpha(c) || static_cast<uint8_t>(c) >= 0x80;
    if (letter && !inside) c = absl::ascii_toupper(c);
    inside = letter;
  }
  return out;
}

size_t CharacterCount(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

bool Interpreter::StepStrip(absl::string_view text, const Value& characters) {
  const size_t each = characters.IsString() ? 1 + characters.String().size() / 4 : 1;
  return Step(1 + text.size() / 64 * each);
}

Value Interpreter::CallMethod(const Value& self, const std::string& name,
                              const Arguments& arguments) {
  if (self.IsString()) {
    if (!Step(1 + self.String().size() / 64)) return Value();
    return StringMethod(self.String(), name, arguments);
  }
  if (self.IsMap()) return MapMethod(self.AsMap(), name, arguments);
  if (name == "append" || name == "pop" || name == "insert" || name == "extend" ||
      name == "remove" || name == "clear" || name == "sort" || name == "reverse") {
    return Fail(absl::StrCat("a template may not change a list with ", name));
  }
  if (name == "count" || name == "index") {
    const List& list = self.AsList();
    if (!Step(list.size())) return Value();
    const auto same = [&](const Value& one) { return Same(one, arguments.Get(0, "")); };
    if (name == "count") {
      return static_cast<int64_t>(std::count_if(list.begin(), list.end(), same));
    }
    const auto it = std::find_if(list.begin(), list.end(), same);
    return it == list.end() ? Fail("index: not in the list")
                            : Value(static_cast<int64_t>(it - list.begin()));
  }
  return Fail(absl::StrCat("a ", self.TypeName(), " has no method ", name));
}

Value Interpreter::StringMethod(const std::string& self, const std::string& name,
                                const Arguments& arguments) {
  const Value first = arguments.Get(0, "chars"), second = arguments.Get(1, "");
  const bool searches =
      name == "split" || name == "replace" || name == "find" || name == "rfind" || name == "count";
  if (searches && first.IsString() && !StepSearch(self, first.String())) return Value();
  const bool strips = name == "strip" || name == "lstrip" || name == "rstrip";
  if (strips && !StepStrip(self, first)) return Value();
  // One or a list of them.
  if (first.IsList() && !Step(first.weight() / 16)) return Value();
  if (name == "strip") return Text(StripText(self, first, true, true));
  if (name == "lstrip") return Text(StripText(self, first, true, false));
  if (name == "rstrip") return Text(StripText(self, first, false, true));
  if (name == "startswith") return StartsOrEnds(self, first, true);
  if (name == "endswith") return StartsOrEnds(self, first, false);
  if (name == "upper") return Text(UpperText(self));
  if (name == "lower") return Text(LowerText(self));
  if (name == "title") return Text(TitleText(self));
  if (name == "capitalize") return Text(CapitalizeText(self));
  if (name == "split") {
    return Split(self, arguments.Get(0, "sep"), arguments.Get(1, "maxsplit"));
  }
  if (name == "splitlines") {
    Value lines = Split(self, Value("\n"), Value());
    if (!self.empty() && self.back() != '\n') return lines;
    List list = lines.IsList() ? lines.AsList() : List();
    if (!list.empty()) list.pop_back();
    return list;
  }
  if (name == "replace" && first.IsString() && second.IsString()) {
    const size_t growth =
        first.String().empty() ? 0 : self.size() / first.String().size() * second.String().size();
    if (!Charge(self.size() + growth)) return Value();
    const Value limit = arguments.Get(2, "count");
    return ReplaceText(self, first.String(), second.String(),
                       limit.IsInteger() ? limit.Integer() : -1);
  }
  if ((name == "find" || name == "rfind") && first.IsString()) {
    const size_t at = name == "find" ? self.find(first.String()) : self.rfind(first.String());
    if (at == std::string::npos) return int64_t{-1};
    return static_cast<int64_t>(CharacterCount(absl::string_view(self).substr(0, at)));
  }
  if (name == "count" && first.IsString() && !first.String().empty()) {
    return Occurrences(self, first.String());
  }
  if (name == "join") {
    Arguments join;
    join.positional.push_back(Value(self));
    return Join(first, join);
  }
  const auto all = [&](auto test) {
    return !self.empty() && std::all_of(self.begin(), self.end(), test);
  };
  if (name == "isdigit" || name == "isnumeric" || name == "isdecimal") {
    return all([](char c) { return absl::ascii_isdigit(c); });
  }
  if (name == "isalpha") return all([](char c) { return absl::ascii_isalpha(c); });
  if (name == "isspace") return all([](char c) { return absl::ascii_isspace(c); });
  return Unsupported(absl::StrCat("string method ", name));
}

Value Interpreter::MapMethod(const Map& self, const std::string& name, const Arguments& arguments) {
  if (name == "get") {
    const Value* field = FindKey(self, TextOf(arguments.Get(0, "key")));
    if (field != nullptr) return *field;
    const Value fallback = arguments.Get(1, "default");
    return fallback.IsUndefined() ? Value(None{}) : fallback;
  }
  if (!Step(self.size()) || !Charge(self.size() * 2 * sizeof(Value))) return Value();
  List out;
  for (const auto& [key, value] : self) {
    if (name == "keys") {
      out.push_back(key);
    } else if (name == "values") {
      out.push_back(value);
    } else {
      out.push_back(List{Value(key), value});
    }
  }
  return out;
}

Value Interpreter::Split(const std::string& self, const Value& separator, const Value& limit) {
  int64_t left = limit.IsInteger() && limit.Integer() >= 0 ? limit.Integer() : INT64_MAX;
  List out;
  const absl::string_view text = self;
  if (!Charge(self.size() * 2)) return Value();
  if (!separator.IsString()) {  // runs of white space, none at the ends
    const auto skip_space = [text](size_t i) {
      for (size_t next = i; next < text.size(); i = next) {
        if (!IsStripped(NextCharacter(text, &next), Value())) break;
      }
      return i;
    };
    for (size_t i = skip_space(0); i < text.size(); i = skip_space(i)) {
      if (!Charge(64)) break;
      size_t end = i;
      while (end < text.size() && left > 0) {
        size_t next = end;
        if (IsStripped(NextCharacter(text, &next), Value())) break;
        end = next;
      }
      if (left-- == 0) end = text.size();
      out.push_back(std::string(text.substr(i, end - i)));
      i = end;
    }
    return out;
  }
  if (separator.String().empty()) return Fail("split: empty separator");
  size_t at = 0, next = 0;
  while (left-- > 0 && (next = text.find(separator.String(), at)) != absl::string_view::npos) {
    if (!Charge(64)) return Value();
    out.push_back(std::string(text.substr(at, next - at)));
    at = next + separator.String().size();
  }
  out.push_back(std::string(text.substr(at)));
  return out;
}

}  // namespace quantd::jinja
