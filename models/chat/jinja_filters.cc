#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"

namespace quantd::jinja {
namespace {

int64_t LengthOf(const Value& value) {
  if (value.IsString()) return static_cast<int64_t>(CharacterCount(value.String()));
  if (value.IsList()) return static_cast<int64_t>(value.AsList().size());
  return value.IsMap() ? static_cast<int64_t>(value.AsMap().size()) : 0;
}

Value ToInteger(const Value& value, const Value& fallback) {
  int64_t integer = 0;
  double real = 0;
  if (value.IsDouble()) {
    return std::fabs(value.Number()) < 9e18 ? Value(static_cast<int64_t>(value.Number()))
                                            : fallback;
  }
  if (value.IsNumber()) return value.Integer();
  if (value.IsString() && absl::SimpleAtoi(value.String(), &integer)) return integer;
  if (value.IsString() && absl::SimpleAtod(value.String(), &real) && std::fabs(real) < 9e18) {
    return static_cast<int64_t>(real);
  }
  return fallback;
}

std::string IndentText(const std::string& text, const std::string& pad, bool first) {
  std::string out = first ? pad : "";
  for (size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    // Empty lines stay empty.
    if (text[i] == '\n' && i + 1 < text.size() && text[i + 1] != '\n') out += pad;
  }
  return out;
}

}  // namespace

Value Interpreter::Filter(const std::string& name, const Value& value, const Arguments& arguments) {
  if (name == "default" || name == "d") {
    const bool falsy = arguments.Get(1, "boolean").Truth() && !value.Truth();
    if (!value.IsUndefined() && !falsy) return value;
    const Value fallback = arguments.Get(0, "default_value");
    return fallback.IsUndefined() ? Value("") : fallback;
  }
  if (name == "tojson") {
    const Value width = arguments.Get(0, "indent");
    const int64_t indent = width.IsInteger() ? std::clamp<int64_t>(width.Integer(), 0, 16) : -1;
    // An escape takes six bytes, a line break with its indentation comes with every element.
    const size_t longest = 6 + std::max<int64_t>(indent, 0) * (value.depth() + 1) / 8;
    const size_t weight = value.weight();
    if (!Charge(weight > limits_.made_bytes ? weight : weight * longest) || !Step(weight / 8)) {
      return Value();
    }
    return ToJson(value, static_cast<int>(indent));
  }
  if (value.IsString() && !StepThrough(value.String().size())) return Value();
  if (name == "length" || name == "count") return LengthOf(value);
  if (name == "safe") return value;
  if (name == "string") return Text(TextOf(value));
  if (name == "int") {
    const Value fallback = arguments.Get(0, "default");
    return ToInteger(value, fallback.IsUndefined() ? Value(int64_t{0}) : fallback);
  }
  if (name == "float") {
    double real = 0;
    if (value.IsNumber()) return value.Number();
    if (value.IsString() && absl::SimpleAtod(value.String(), &real)) return real;
    return 0.0;
  }
  if (name == "abs" && value.IsNumber()) {
    if (value.IsDouble()) return std::fabs(value.Number());
    return value.Integer() < 0 ? Arithmetic('-', Value(int64_t{0}), value) : value;
  }
  if (name == "round" && value.IsNumber()) {
    const double scale =
        std::pow(10, std::clamp<int64_t>(arguments.Get(0, "precision").Integer(), 0, 15));
    return std::nearbyint(value.Number() * scale) / scale;
  }
  bool known = true;
  Value result = TextFilter(name, value, arguments, &known);
  if (known) return result;
  known = true;
  result = ListFilter(name, value, arguments, &known);
  return known ? result : Unsupported(absl::StrCat("filter ", name));
}

Value Interpreter::TextFilter(const std::string& name, const Value& value,
                              const Arguments& arguments, bool* known) {
  const std::string text = value.IsString() ? value.String() : "";
  const auto need_text = [&] { return value.IsString() ? text : TextOf(value); };
  if (!Step(1 + text.size() / 64)) return Value();
  if (name == "trim") {
    if (!StepStrip(text, arguments.Get(0, "chars"))) return Value();
    return Text(StripText(need_text(), arguments.Get(0, "chars"), true, true));
  }
  if (name == "upper") return Text(UpperText(need_text()));
  if (name == "lower") return Text(LowerText(need_text()));
  if (name == "title") return Text(TitleText(need_text()));
  if (name == "capitalize") return Text(CapitalizeText(need_text()));
  if (name == "replace") {
    Arguments replace = arguments;
    return StringMethod(need_text(), "replace", replace);
  }
  if (name == "indent") {
    const std::string lines = need_text();
    const Value width = arguments.Get(0, "width");
    const int64_t blanks = width.IsInteger() ? std::clamp<int64_t>(width.Integer(), 0, 256) : 4;
    const std::string pad = width.IsString() ? TextOf(width) : std::string(blanks, ' ');
    const size_t breaks = 1 + std::count(lines.begin(), lines.end(), '\n');
    if (!Charge(lines.size()) || !Charge(breaks * pad.size())) return Value();
    return IndentText(lines, pad, arguments.Get(1, "first").Truth());
  }
  if (name == "escape" || name == "e") {
    std::string out = need_text();
    if (!Charge(out.size() * 5)) return Value();  // "&#34;"
    static constexpr std::pair<const char*, const char*> kEntities[] = {
        {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&#34;"}, {"'", "&#39;"}};
    for (const auto& [from, to] : kEntities) out = ReplaceText(out, from, to, -1);
    return out;
  }
  *known = false;
  return Value();
}

Value Interpreter::Join(const Value& value, const Arguments& arguments) {
  const std::string separator =
      arguments.Get(0, "d").IsUndefined() ? "" : TextOf(arguments.Get(0, "d"));
  const Value attribute = arguments.Get(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& element : Elements(value)) {
    const std::string text =
        attribute.IsString() ? TextOf(Item(element, attribute)) : TextOf(element);
    if (!Charge(text.size() + separator.size())) return Value();
    if (!first) out += separator;
    first = false;
    out += text;
  }
  return out;
}

// select, reject, selectattr, rejectattr.
Value Interpreter::Select(const std::string& name, const Value& value, const Arguments& arguments) {
  const bool by_attribute = name.size() > 6;
  const bool wanted = name[0] == 's';
  Arguments rest = arguments;
  Value attribute;
  const auto take = [&rest] {
    Value front = rest.Get(0, "");
    if (!rest.positional.empty()) rest.positional.erase(rest.positional.begin());
    return front;
  };
  if (by_attribute) attribute = take();
  const Value test = take();
  List out;
  for (const Value& element : Elements(value)) {
    const Value tested = by_attribute ? Item(element, attribute) : element;
    const bool passes = test.IsString() ? Test(test.String(), tested, rest) : tested.Truth();
    if (!Step()) return Value();
    if (passes == wanted) out.push_back(element);
  }
  return out;
}

Value Interpreter::Map_(const Value& value, const Arguments& arguments) {
  const Value* attribute = FindKey(arguments.keywords, "attribute");
  const Value name = arguments.Get(0, "");
  Arguments rest;
  if (arguments.positional.size() > 1) {
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
  }
  if (call_depth_ >= limits_.call_depth) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: map() of map() deeper than ", limits_.call_depth));
    return Value();
  }
  ++call_depth_;
  List out;
  for (const Value& element : Elements(value)) {
    if (!Step(1 + rest.size())) break;
    out.push_back(attribute != nullptr ? Item(element, *attribute)
                                       : Filter(TextOf(name), element, rest));
    if (out.back().AsNamespace() != nullptr) Unsupported("a namespace in a list");
  }
  --call_depth_;
  return ok() ? Value(std::move(out)) : Value();
}

Value Interpreter::ListFilter(const std::string& name, const Value& value,
                              const Arguments& arguments, bool* known) {
  if (name == "join") return Join(value, arguments);
  if (name == "list") return Elements(value);
  if (name == "items") return value.IsMap() ? MapMethod(value.AsMap(), name, {}) : Value(List());
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    return Select(name, value, arguments);
  }
  if (name == "map") return Map_(value, arguments);
  const auto order = [this](const Value& a, const Value& b) {
    bool comparable = false;
    const int result = Order(a, b, &comparable);
    if (!comparable) Fail("cannot sort values of these types");
    return comparable ? result : 0;
  };
  if (name == "first" || name == "last") {
    const List list = Elements(value);
    if (list.empty()) return Value::MakeUndefined(name);
    return name == "first" ? list.front() : list.back();
  }
  if (name == "reverse") {
    List list = Elements(value);
    std::reverse(list.begin(), list.end());
    if (!value.IsString()) return list;
    return Join(list, {});
  }
  if (name == "unique") {
    List out;
    for (const Value& element : Elements(value)) {
      if (!Step(out.size())) return Value();
      const auto same = [&](const Value& other) { return Same(other, element); };
      if (std::none_of(out.begin(), out.end(), same)) out.push_back(element);
    }
    return out;
  }
  if (name == "sort" || name == "dictsort") {
    List list = name == "sort"  ? Elements(value)
                : value.IsMap() ? MapMethod(value.AsMap(), "items", {}).AsList()
                                : List();
    const Value attribute = arguments.Get(2, "attribute");
    const auto key = [&](const Value& element) {
      if (name == "dictsort") return element.AsList()[0];
      return attribute.IsString() ? Item(element, attribute) : element;
    };
    // Insertion by binary search: no comparison that is not an order can break it.
    List out;
    for (const Value& element : list) {
      if (!Step(1 + out.size() / 16)) return Value();
      const auto at = std::upper_bound(
          out.begin(), out.end(), element,
          [&](const Value& a, const Value& b) { return order(key(a), key(b)) < 0; });
      out.insert(at, element);
    }
    if (arguments.Get(0, "reverse").Truth()) std::reverse(out.begin(), out.end());
    return out;
  }
  *known = false;
  return Value();
}

bool Interpreter::Test(const std::string& name, const Value& value, const Arguments& arguments) {
  const Value other = arguments.Get(0, "");
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "string") return value.IsString();
  if (name == "mapping") return value.IsMap();
  if (name == "boolean") return value.IsBool();
  if (name == "true") return value.IsBool() && value.Truth();
  if (name == "false") return value.IsBool() && !value.Truth();
  if (name == "integer") return value.IsInteger();
  if (name == "float") return value.IsDouble();
  if (name == "number") return value.IsNumber();
  if (name == "iterable" || name == "sequence") {
    return value.IsString() || value.IsList() || value.IsMap() ||
           (name == "iterable" && value.IsUndefined());
  }
  if (name == "callable") return value.AsFunction() != nullptr || value.AsMacro() != nullptr;
  if (name == "odd" || name == "even") {
    return value.IsNumber() && (value.Integer() % 2 != 0) == (name == "odd");
  }
  if (name == "divisibleby") {
    return other.Integer() != 0 && other.Integer() != -1 && value.Integer() % other.Integer() == 0;
  }
  if (name == "in") return Contains(other, value).Truth();
  if (name == "equalto" || name == "eq" || name == "sameas") return Same(value, other);
  if (name == "ne") return !Same(value, other);
  if ((name == "lower" || name == "upper") && value.IsString() &&
      !Step(value.String().size() / 64)) {
    return false;
  }
  if (name == "lower") return value.IsString() && LowerText(value.String()) == value.String();
  if (name == "upper") return value.IsString() && UpperText(value.String()) == value.String();
  static constexpr std::pair<const char*, const char*> kOrders[] = {
      {"gt", ">"}, {"greaterthan", ">"}, {"ge", ">="},
      {"lt", "<"}, {"lessthan", "<"},    {"le", "<="}};
  for (const auto& [test, op] : kOrders) {
    if (name == test) return Compute(op, value, other).Truth();
  }
  Unsupported(absl::StrCat("test ", name));
  return false;
}

}  // namespace quantd::jinja
