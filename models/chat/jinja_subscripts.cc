// Taking values apart: attributes, items, slices, elements.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"
#include "models/tokenizers/unicode.h"

namespace quantd::jinja {
namespace {

// A character of `text` as Python indexes it: by code point.
std::vector<absl::string_view> Characters(absl::string_view text) {
  std::vector<absl::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    NextCharacter(text, &i);
    out.push_back(text.substr(begin, i - begin));
  }
  return out;
}

// Characters [begin, end).
std::string CharactersOf(absl::string_view text, int64_t begin, int64_t end) {
  size_t at = 0;
  int64_t character = 0;
  for (; character < begin && at < text.size(); ++character) NextCharacter(text, &at);
  const size_t first = at;
  for (; character < end && at < text.size(); ++character) NextCharacter(text, &at);
  return std::string(text.substr(first, at - first));
}

// Python's slice.indices(size): where it begins and where it stops.
std::pair<int64_t, int64_t> SliceBounds(int64_t size, const Value& start, const Value& stop,
                                        int64_t step) {
  const auto bound = [&](const Value& value, int64_t fallback) {
    if (!value.IsInteger()) return fallback;
    int64_t at = value.Integer();
    if (at < 0) at = at < -size ? -1 : at + size;
    if (value.Integer() < -size) at = step < 0 ? -1 : 0;
    return std::clamp<int64_t>(at, step < 0 ? -1 : 0, step < 0 ? size - 1 : size);
  };
  return {bound(start, step < 0 ? size - 1 : 0), bound(stop, step < 0 ? -1 : size)};
}

// The positions taken.
std::vector<size_t> SliceIndices(int64_t size, const Value& start, const Value& stop,
                                 int64_t step) {
  const auto [first, last] = SliceBounds(size, start, stop, step);
  std::vector<size_t> indices;
  if (step > 0) {
    for (int64_t i = first; i < last; i += std::min(step, size)) {
      indices.push_back(static_cast<size_t>(i));
    }
  } else {
    for (int64_t i = first; i > last; i += std::max(step, -size)) {
      indices.push_back(static_cast<size_t>(i));
    }
  }
  return indices;
}

}  // namespace

Value Interpreter::Attribute(const Value& value, const std::string& name) {
  if (value.IsUndefined()) {
    return Fail(
        absl::StrCat("'", value.UndefinedName(), "' is undefined, asked for its '", name, "'"));
  }
  if (!name.empty() && name[0] == '_' && !value.IsMap()) return Value::MakeUndefined(name);
  if (const Namespace* space = value.AsNamespace(); space != nullptr) {
    const Value* field = FindKey(space->fields, name);
    return field == nullptr ? Value::MakeUndefined(name) : *field;
  }
  const bool method =
      value.IsMap() && (name == "items" || name == "keys" || name == "values" || name == "get");
  if (value.IsMap() && !method) {
    const Value* field = FindKey(value.AsMap(), name);
    return field == nullptr ? Value::MakeUndefined(name) : *field;
  }
  if (method || value.IsString() || value.IsList()) {
    return Function{name, std::make_shared<const Value>(value)};
  }
  return Value::MakeUndefined(name);
}

Value Interpreter::Item(const Value& value, const Value& key) {
  if (value.IsUndefined()) {
    return Fail(absl::StrCat("'", value.UndefinedName(), "' is undefined"));
  }
  if (value.IsMap()) {
    const Value* field = FindKey(value.AsMap(), TextOf(key));
    return field == nullptr ? Value::MakeUndefined(TextOf(key)) : *field;
  }
  if (value.AsNamespace() != nullptr) return Attribute(value, TextOf(key));
  if (!key.IsInteger() || !(value.IsList() || value.IsString())) {
    return Value::MakeUndefined(TextOf(key));
  }
  if (value.IsString() && !Step(1 + value.String().size() / 64)) return Value();
  const int64_t size =
      static_cast<int64_t>(value.IsList() ? value.AsList().size() : CharacterCount(value.String()));
  const int64_t at = key.Integer() < 0 ? key.Integer() + size : key.Integer();
  if (at < 0 || at >= size) return Value::MakeUndefined(TextOf(key));
  return value.IsList() ? value.AsList()[at] : Text(CharactersOf(value.String(), at, at + 1));
}

Value Interpreter::Slice(const Expression& expression) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expression.operands[i] != nullptr) parts[i] = Evaluate(*expression.operands[i]);
    if (i > 0 && !parts[i].IsInteger() && !parts[i].IsUndefined() && !parts[i].IsNone()) {
      return Fail("a slice needs integers");
    }
  }
  const int64_t step = parts[3].IsInteger() ? parts[3].Integer() : 1;
  if (step == 0) return Fail("the step of a slice is zero");
  if (parts[0].IsString()) return SliceText(parts[0].String(), parts[1], parts[2], step);
  if (!parts[0].IsList()) return Fail(absl::StrCat("cannot slice a ", parts[0].TypeName()));
  const List& list = parts[0].AsList();
  if (!Step(list.size()) || !Charge(list.size() * sizeof(Value))) return Value();
  List out;
  for (const size_t i : SliceIndices(static_cast<int64_t>(list.size()), parts[1], parts[2], step)) {
    out.push_back(list[i]);
  }
  return out;
}

Value Interpreter::SliceText(const std::string& text, const Value& start, const Value& stop,
                             int64_t step) {
  if (!Step(1 + text.size() / 64) || !Charge(text.size())) return Value();
  const int64_t size = static_cast<int64_t>(CharacterCount(text));
  if (step == 1) {
    const auto [first, last] = SliceBounds(size, start, stop, step);
    return CharactersOf(text, first, last);
  }
  if (!Charge(size * (sizeof(absl::string_view) + sizeof(size_t)))) return Value();
  const auto characters = Characters(text);
  std::string out;
  for (const size_t i : SliceIndices(static_cast<int64_t>(characters.size()), start, stop, step)) {
    absl::StrAppend(&out, characters[i]);
  }
  return out;
}

List Interpreter::Elements(const Value& value) {
  List out;
  if (value.IsList()) {
    if (Step(value.AsList().size()) && Charge(value.AsList().size() * sizeof(Value))) {
      out = value.AsList();
    }
  } else if (value.IsMap()) {
    for (const auto& [key, unused] : value.AsMap()) out.push_back(Text(key));
  } else if (value.IsString()) {
    if (!Charge(value.String().size() * 64)) return out;
    for (const absl::string_view c : Characters(value.String())) out.push_back(std::string(c));
  } else if (!value.IsUndefined()) {
    Fail(absl::StrCat("cannot go through a ", value.TypeName()));
  }
  return out;
}

}  // namespace quantd::jinja
