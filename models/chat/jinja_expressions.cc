#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"
#include "models/tokenizers/unicode.h"

namespace quantd::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int64_t kMaxRange = 100'000;

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

// Python's slice.indices(size): the positions taken.
std::vector<size_t> SliceIndices(int64_t size, const Value& start, const Value& stop,
                                 int64_t step) {
  const auto bound = [&](const Value& value, int64_t fallback) {
    if (!value.IsInteger()) return fallback;
    int64_t at = value.Integer();
    if (at < 0) at = at < -size ? -1 : at + size;
    if (value.Integer() < -size) at = step < 0 ? -1 : 0;
    return std::clamp<int64_t>(at, step < 0 ? -1 : 0, step < 0 ? size - 1 : size);
  };
  const int64_t first = bound(start, step < 0 ? size - 1 : 0);
  const int64_t last = bound(stop, step < 0 ? -1 : size);
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

int64_t FloorDivide(int64_t a, int64_t b) {
  if (b == -1) return a == INT64_MIN ? INT64_MAX : -a;
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

}  // namespace

Value Interpreter::Text(std::string text) {
  return Charge(text.size() + 32) ? Value(std::move(text)) : Value();
}

std::string Interpreter::TextOf(const Value& value) {
  if (value.depth() == 0) return value.Text();
  return Charge(value.weight()) && Step(value.weight() / 64) ? value.Text() : std::string();
}

bool Interpreter::Same(const Value& a, const Value& b) {
  const size_t work = a.depth() == 0 || b.depth() == 0 ? 0 : std::min(a.weight(), b.weight());
  return Step(work / 8) && Equal(a, b);
}

Value Interpreter::Evaluate(const Expression& expression) {
  Value value = EvaluateUnchecked(expression);
  if (value.depth() <= limits_.value_depth) return value;
  if (ok()) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: lists nested deeper than ", limits_.value_depth, " levels"));
  }
  return Value();
}

Value Interpreter::EvaluateUnchecked(const Expression& expression) {
  if (!Step()) return Value();
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.value;
    case Kind::kName:
      return Lookup(expression.name);
    case Kind::kList: {
      List list;
      for (const ExpressionPtr& operand : expression.operands) {
        list.push_back(Evaluate(*operand));
        if (list.back().AsNamespace() != nullptr) return Unsupported("a namespace in a list");
      }
      return Charge(list.size() * sizeof(Value)) ? Value(std::move(list)) : Value();
    }
    case Kind::kMap: {
      Map map;
      for (size_t i = 0; ok() && i + 1 < expression.operands.size(); i += 2) {
        const Value key = Evaluate(*expression.operands[i]);
        Value value = Evaluate(*expression.operands[i + 1]);
        if (value.AsNamespace() != nullptr) return Unsupported("a namespace in a mapping");
        map.emplace_back(TextOf(key), std::move(value));
      }
      return Charge(map.size() * 64) ? Value(std::move(map)) : Value();
    }
    case Kind::kUnary:
      return EvaluateUnary(expression);
    case Kind::kBinary:
      return EvaluateBinary(expression);
    case Kind::kCondition:
      if (Evaluate(*expression.operands[1]).Truth()) return Evaluate(*expression.operands[0]);
      return expression.operands[2] ? Evaluate(*expression.operands[2]) : Value();
    case Kind::kAttribute:
      return Attribute(Evaluate(*expression.operands[0]), expression.name);
    case Kind::kItem: {
      const Value value = Evaluate(*expression.operands[0]);
      return Item(value, Evaluate(*expression.operands[1]));
    }
    case Kind::kSlice:
      return Slice(expression);
    case Kind::kCall:
      return Call(expression);
    case Kind::kFilter: {
      const Value value = Evaluate(*expression.operands[0]);
      const Arguments arguments = EvaluateArguments(expression);
      return ok() ? Filter(expression.name, value, arguments) : Value();
    }
    case Kind::kTest: {
      const Value value = Evaluate(*expression.operands[0]);
      const Arguments arguments = EvaluateArguments(expression);
      return ok() ? Value(Test(expression.name, value, arguments) != expression.negated) : Value();
    }
  }
  return Value();
}

Value Interpreter::EvaluateUnary(const Expression& expression) {
  const Value value = Evaluate(*expression.operands[0]);
  if (expression.name == "not") return !value.Truth();
  if (!value.IsNumber()) return Fail(absl::StrCat("cannot negate a ", value.TypeName()));
  if (expression.name == "+") return value;
  if (value.IsDouble()) return -value.Number();
  return static_cast<int64_t>(-static_cast<uint64_t>(value.Integer()));
}

Value Interpreter::EvaluateBinary(const Expression& expression) {
  const std::string& name = expression.name;
  Value left = Evaluate(*expression.operands[0]);
  if (name == "and") return left.Truth() ? Evaluate(*expression.operands[1]) : left;
  if (name == "or") return left.Truth() ? left : Evaluate(*expression.operands[1]);
  const Value right = Evaluate(*expression.operands[1]);
  return ok() ? Compute(name, left, right) : Value();
}

Value Interpreter::Compute(const std::string& name, const Value& left, const Value& right) {
  if (name == "==") return Same(left, right);
  if (name == "!=") return !Same(left, right);
  if (name == "in") return Contains(right, left);
  if (name == "not in") return !Contains(right, left).Truth();
  if (name == "~") {
    return Charge(64) ? Text(TextOf(left) + TextOf(right)) : Value();
  }
  if (name[0] == '<' || name[0] == '>') {
    bool comparable = false;
    const int order = Compare(left, right, &comparable);
    if (!comparable) {
      return Fail(absl::StrCat("cannot compare a ", left.TypeName(), " with a ", right.TypeName()));
    }
    const bool or_equal = name.size() == 2;
    return name[0] == '<' ? order < 0 || (or_equal && order == 0)
                          : order > 0 || (or_equal && order == 0);
  }
  if (name == "+" && left.IsString() && right.IsString()) {
    if (!Charge(left.String().size() + right.String().size() + 32)) return Value();
    return left.String() + right.String();
  }
  if (name == "+" && left.IsList() && right.IsList()) {
    if (!Charge((left.AsList().size() + right.AsList().size()) * sizeof(Value))) return Value();
    List list = left.AsList();
    list.insert(list.end(), right.AsList().begin(), right.AsList().end());
    return list;
  }
  if (name == "*" && left.IsString() && right.IsInteger()) {
    const uint64_t times = right.Integer() < 0 ? 0 : static_cast<uint64_t>(right.Integer());
    if (left.String().empty() || times == 0) return "";
    if (times > limits_.made_bytes || !Charge(left.String().size() * times)) {
      Charge(limits_.made_bytes + 1);
      return Value();
    }
    std::string out;
    for (uint64_t i = 0; i < times; ++i) out += left.String();
    return out;
  }
  if (!left.IsNumber() || !right.IsNumber()) {
    return Fail(absl::StrCat("operator ", name, " between a ", left.TypeName(), " and a ",
                             right.TypeName()));
  }
  return Arithmetic(name == "//" ? 'f' : name == "**" ? 'p' : name[0], left, right);
}

Value Interpreter::Arithmetic(char op, const Value& left, const Value& right) {
  const bool real = left.IsDouble() || right.IsDouble() || op == '/';
  const double x = left.Number(), y = right.Number();
  const int64_t a = left.Integer(), b = right.Integer();
  if ((op == '/' || op == 'f' || op == '%') && y == 0) return Fail("division by zero");
  if (op == 'p') {
    const double power = std::pow(x, y);
    if (real || y < 0) return power;
    return std::fabs(power) < 9e18 ? Value(static_cast<int64_t>(power)) : Fail("integer too large");
  }
  if (real) {
    switch (op) {
      case '+':
        return x + y;
      case '-':
        return x - y;
      case '*':
        return x * y;
      case '/':
        return x / y;
      case 'f':
        return std::floor(x / y);
      default:
        return x - y * std::floor(x / y);
    }
  }
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case '+':
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case '-':
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case '*':
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case 'f':
      result = FloorDivide(a, b);
      break;
    default:
      result = b == -1 ? 0 : a % b;
      if (result != 0 && (result < 0) != (b < 0)) result += b;
  }
  return overflow ? Fail("integer too large") : Value(result);
}

Value Interpreter::Contains(const Value& container, const Value& element) {
  if (container.IsString()) {
    if (!element.IsString()) return Fail("'in' a string needs a string");
    if (!Step(1 + container.String().size() / 64)) return false;
    return container.String().find(element.String()) != std::string::npos;
  }
  if (container.IsMap()) {
    return element.IsString() && FindKey(container.AsMap(), element.String()) != nullptr;
  }
  if (container.IsUndefined()) return false;
  if (!container.IsList()) return Fail(absl::StrCat("'in' a ", container.TypeName()));
  if (!Step(container.AsList().size())) return false;
  return std::any_of(container.AsList().begin(), container.AsList().end(),
                     [&](const Value& other) { return Same(element, other); });
}

Value Interpreter::Lookup(const std::string& name) {
  for (size_t i = scopes_.size(); i-- > 0;) {
    const auto it = scopes_[i].find(name);
    if (it != scopes_[i].end()) return it->second;
  }
  for (const char* known : {"range", "namespace", "dict", "raise_exception"}) {
    if (name == known) return Function{name, nullptr};
  }
  return Value::MakeUndefined(name);
}

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
  const std::vector<absl::string_view> characters =
      value.IsString() ? Characters(value.String()) : std::vector<absl::string_view>();
  const int64_t size =
      static_cast<int64_t>(value.IsList() ? value.AsList().size() : characters.size());
  const int64_t at = key.Integer() < 0 ? key.Integer() + size : key.Integer();
  if (at < 0 || at >= size) return Value::MakeUndefined(TextOf(key));
  return value.IsList() ? value.AsList()[at] : Text(std::string(characters[at]));
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
  if (parts[0].IsString()) {
    if (!Step(1 + parts[0].String().size() / 64) || !Charge(parts[0].String().size())) {
      return Value();
    }
    const auto characters = Characters(parts[0].String());
    std::string out;
    for (const size_t i :
         SliceIndices(static_cast<int64_t>(characters.size()), parts[1], parts[2], step)) {
      absl::StrAppend(&out, characters[i]);
    }
    return out;
  }
  if (!parts[0].IsList()) return Fail(absl::StrCat("cannot slice a ", parts[0].TypeName()));
  const List& list = parts[0].AsList();
  if (!Step(list.size()) || !Charge(list.size() * sizeof(Value))) return Value();
  List out;
  for (const size_t i : SliceIndices(static_cast<int64_t>(list.size()), parts[1], parts[2], step)) {
    out.push_back(list[i]);
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

Arguments Interpreter::EvaluateArguments(const Expression& expression) {
  Arguments arguments;
  for (size_t i = 1; i < expression.operands.size(); ++i) {
    arguments.positional.push_back(Evaluate(*expression.operands[i]));
  }
  for (const auto& [name, value] : expression.keywords) {
    arguments.keywords.emplace_back(name, Evaluate(*value));
  }
  return arguments;
}

Value Interpreter::Call(const Expression& expression) {
  const Value callee = Evaluate(*expression.operands[0]);
  const Arguments arguments = EvaluateArguments(expression);
  if (!ok()) return Value();
  if (const Macro* macro = callee.AsMacro(); macro != nullptr) return CallMacro(*macro, arguments);
  const Function* function = callee.AsFunction();
  if (function == nullptr) {
    return Fail(callee.IsUndefined() ? absl::StrCat("'", callee.UndefinedName(), "' is undefined")
                                     : absl::StrCat("a ", callee.TypeName(), " is no function"));
  }
  return function->self == nullptr ? CallGlobal(function->name, arguments)
                                   : CallMethod(*function->self, function->name, arguments);
}

Value Interpreter::CallMacro(const Macro& macro, const Arguments& arguments) {
  if (call_depth_ >= limits_.call_depth) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: macros call each other deeper than ", limits_.call_depth));
    return Value();
  }
  // A macro sees its parameters and what stands outside of all loops.
  std::vector<Scope> outer(std::make_move_iterator(scopes_.begin() + 1),
                           std::make_move_iterator(scopes_.end()));
  scopes_.resize(1);
  scopes_.emplace_back();
  for (size_t i = 0; i < macro.parameters.size() && ok(); ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    Value value = arguments.Get(i, name);
    if (value.IsUndefined() && fallback != nullptr) value = Evaluate(*fallback);
    scopes_.back()[name] = std::move(value);
  }
  ++call_depth_;
  Value result = Text(Capture(macro.body));
  --call_depth_;
  scopes_.resize(1);
  scopes_.insert(scopes_.end(), std::make_move_iterator(outer.begin()),
                 std::make_move_iterator(outer.end()));
  return result;
}

Value Interpreter::CallGlobal(const std::string& name, const Arguments& arguments) {
  if (name == "raise_exception") {
    return Fail(absl::StrCat("raised: ", TextOf(arguments.Get(0, "message"))));
  }
  if (name == "namespace" || name == "dict") {
    Map fields = arguments.keywords;
    const Value first = arguments.Get(0, "");
    if (first.IsMap()) fields.insert(fields.begin(), first.AsMap().begin(), first.AsMap().end());
    for (const auto& [key, value] : fields) {
      if (value.AsNamespace() != nullptr) return Unsupported("a namespace in a namespace");
    }
    if (name == "dict") return fields;
    return std::make_shared<Namespace>(Namespace{std::move(fields)});
  }
  const Value first = arguments.Get(0, "start"), second = arguments.Get(1, "stop");
  const Value third = arguments.Get(2, "step");
  const int64_t start = second.IsInteger() ? first.Integer() : 0;
  const int64_t stop = second.IsInteger() ? second.Integer() : first.Integer();
  const int64_t step = third.IsInteger() ? third.Integer() : 1;
  if (step == 0) return Fail("the step of range is zero");
  List list;
  for (__int128 i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(list.size()) >= kMaxRange) {
      status_ = absl::ResourceExhaustedError(
          absl::StrCat("chat template: a range of more than ", kMaxRange));
      return Value();
    }
    list.push_back(static_cast<int64_t>(i));
  }
  return Charge(list.size() * sizeof(Value)) && Step(list.size()) ? Value(std::move(list))
                                                                  : Value();
}

}  // namespace quantd::jinja
