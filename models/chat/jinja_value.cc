#include "models/chat/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quantd::jinja {
namespace {

// Shortest digits that read back the same, as Python's repr().
std::string DoubleText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  for (int digits = 1; digits <= 17; ++digits) {
    std::string text = absl::StrFormat("%.*g", digits, value);
    if (std::stod(text) != value) continue;
    const bool plain = text.find_first_of(".e") == std::string::npos;
    const double size = std::fabs(value);
    if (text.find('e') != std::string::npos && size >= 1e-4 && size < 1e16) {
      text = absl::StrFormat("%.1f", value);
    } else if (plain) {
      text += ".0";
    }
    return text;
  }
  return absl::StrFormat("%.17g", value);
}

std::string Quote(const std::string& text) {
  const bool use_double =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = use_double ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint8_t>(c));
    } else {
      out += c;
    }
  }
  out += quote;
  return out;
}

void AppendJsonString(const std::string& text, std::string* out) {
  *out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<uint8_t>(c));
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

void AppendBreak(int indent, int depth, std::string* out) {
  if (indent < 0) return;
  *out += '\n';
  out->append(static_cast<size_t>(indent) * depth, ' ');
}

void AppendJson(const Value& value, int indent, int depth, std::string* out) {
  const char* separator = indent < 0 ? ", " : ",";
  if (value.IsString()) {
    AppendJsonString(value.String(), out);
  } else if (value.IsBool()) {
    *out += value.Truth() ? "true" : "false";
  } else if (value.IsNumber()) {
    *out += value.Text();
  } else if (value.IsList()) {
    *out += '[';
    bool first = true;
    for (const Value& element : value.AsList()) {
      if (!first) *out += separator;
      first = false;
      AppendBreak(indent, depth + 1, out);
      AppendJson(element, indent, depth + 1, out);
    }
    if (!first) AppendBreak(indent, depth, out);
    *out += ']';
  } else if (value.IsMap()) {
    *out += '{';
    bool first = true;
    for (const auto& [key, element] : value.AsMap()) {
      if (!first) *out += separator;
      first = false;
      AppendBreak(indent, depth + 1, out);
      AppendJsonString(key, out);
      *out += ": ";
      AppendJson(element, indent, depth + 1, out);
    }
    if (!first) AppendBreak(indent, depth, out);
    *out += '}';
  } else {
    *out += "null";
  }
}

template <typename Box>
void Grow(const Value& element, Box* box) {
  box->depth = std::max(box->depth, element.depth() + 1);
  if (__builtin_add_overflow(box->weight, element.weight(), &box->weight)) box->weight = SIZE_MAX;
}

}  // namespace

Value::Value(List list) {
  auto box = std::make_shared<ListBox>();
  for (const Value& element : list) Grow(element, box.get());
  box->list = std::move(list);
  data_ = std::shared_ptr<const ListBox>(std::move(box));
}

Value::Value(Map map) {
  auto box = std::make_shared<MapBox>();
  for (const auto& [key, element] : map) {
    box->weight += key.size();
    Grow(element, box.get());
  }
  box->map = std::move(map);
  data_ = std::shared_ptr<const MapBox>(std::move(box));
}

const List& Value::AsList() const { return std::get<std::shared_ptr<const ListBox>>(data_)->list; }
const Map& Value::AsMap() const { return std::get<std::shared_ptr<const MapBox>>(data_)->map; }

int Value::depth() const {
  if (IsList()) return std::get<std::shared_ptr<const ListBox>>(data_)->depth;
  if (IsMap()) return std::get<std::shared_ptr<const MapBox>>(data_)->depth;
  const Function* function = AsFunction();
  return function != nullptr && function->self != nullptr ? function->self->depth() : 0;
}

size_t Value::weight() const {
  if (IsList()) return std::get<std::shared_ptr<const ListBox>>(data_)->weight;
  if (IsMap()) return std::get<std::shared_ptr<const MapBox>>(data_)->weight;
  return IsString() ? String().size() + 8 : 8;
}

double Value::Number() const {
  if (IsDouble()) return std::get<double>(data_);
  return static_cast<double>(Integer());
}

int64_t Value::Integer() const {
  if (IsBool()) return std::get<bool>(data_) ? 1 : 0;
  return IsInteger() ? std::get<int64_t>(data_) : 0;
}

bool Value::Truth() const {
  if (IsUndefined() || IsNone()) return false;
  if (IsDouble()) return Number() != 0;
  if (IsNumber()) return Integer() != 0;
  if (IsString()) return !String().empty();
  if (IsList()) return !AsList().empty();
  if (IsMap()) return !AsMap().empty();
  return true;
}

std::string Value::Text() const { return IsString() ? String() : Repr(); }

std::string Value::Repr() const {
  if (IsUndefined()) return "";
  if (IsNone()) return "None";
  if (IsBool()) return Truth() ? "True" : "False";
  if (IsInteger()) return absl::StrCat(Integer());
  if (IsDouble()) return DoubleText(Number());
  if (IsString()) return Quote(String());
  std::string out;
  if (IsList()) {
    for (const Value& element : AsList()) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", element.Repr());
    }
    return absl::StrCat("[", out, "]");
  }
  if (IsMap()) {
    for (const auto& [key, element] : AsMap()) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", Quote(key), ": ", element.Repr());
    }
    return absl::StrCat("{", out, "}");
  }
  return absl::StrCat("<", TypeName(), ">");
}

const char* Value::TypeName() const {
  if (IsUndefined()) return "undefined";
  if (IsNone()) return "none";
  if (IsBool()) return "boolean";
  if (IsInteger()) return "integer";
  if (IsDouble()) return "float";
  if (IsString()) return "string";
  if (IsList()) return "list";
  if (IsMap()) return "mapping";
  return AsNamespace() != nullptr ? "namespace" : "function";
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsDouble() || b.IsDouble() ? a.Number() == b.Number() : a.Integer() == b.Integer();
  }
  if (a.IsString() && b.IsString()) return a.String() == b.String();
  if (a.IsNone() || a.IsUndefined()) return a.data_.index() == b.data_.index();
  if (a.IsList() && b.IsList()) {
    if (a.AsList().size() != b.AsList().size()) return false;
    for (size_t i = 0; i < a.AsList().size(); ++i) {
      if (!Equal(a.AsList()[i], b.AsList()[i])) return false;
    }
    return true;
  }
  if (a.IsMap() && b.IsMap()) {
    if (a.AsMap().size() != b.AsMap().size()) return false;
    for (const auto& [key, element] : a.AsMap()) {
      const Value* other = FindKey(b.AsMap(), key);
      if (other == nullptr || !Equal(element, *other)) return false;
    }
    return true;
  }
  return false;
}

int Compare(const Value& a, const Value& b, bool* comparable) {
  *comparable = true;
  if (a.IsNumber() && b.IsNumber()) {
    const double x = a.Number(), y = b.Number();
    return x < y ? -1 : x > y ? 1 : 0;
  }
  if (a.IsString() && b.IsString()) return a.String().compare(b.String());
  *comparable = false;
  return 0;
}

const Value* FindKey(const Map& map, absl::string_view key) {
  for (const auto& [name, value] : map) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string ToJson(const Value& value, int indent) {
  std::string out;
  AppendJson(value, indent, 0, &out);
  return out;
}

}  // namespace quantd::jinja
