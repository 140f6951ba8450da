#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"

namespace quantd::jinja {
namespace {

using Kind = Expression::Kind;

int64_t FloorDivide(int64_t a, int64_t b) {
  if (b == -1) return a == INT64_MIN ? INT64_MAX : -a;
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

}  // namespace

Value Interpreter::Text(std::string text) {
  return Charge(text.size() + 32) ? Value(std::move(text)) : Value();
}

std::string Interpreter::TextOf(const Value& value) {
  if (value.IsString()) return StepThrough(value.String().size()) ? value.String() : "";
  if (value.depth() == 0) return value.Text();
  // Quoting may write four bytes for one.
  if (!Charge(value.weight()) || !Charge(value.weight() * 3)) return "";
  return Step(value.weight() / 64) ? value.Text() : "";
}

bool Interpreter::Same(const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) {
    return a.String().size() == b.String().size() && StepThrough(a.String().size()) && Equal(a, b);
  }
  const size_t work = a.depth() == 0 || b.depth() == 0 ? 0 : std::min(a.weight(), b.weight());
  return Step(work / 8) && Equal(a, b);
}

int Interpreter::Order(const Value& a, const Value& b, bool* comparable) {
  const bool text = a.IsString() && b.IsString();
  const size_t work = text ? std::min(a.String().size(), b.String().size()) : 0;
  if (!StepThrough(work)) {
    *comparable = true;
    return 0;
  }
  return Compare(a, b, comparable);
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
        if (!HasRoom(map)) return Value();
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
  Value value = Evaluate(*expression.operands[0]);
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
    const int order = Order(left, right, &comparable);
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
    if (!StepSearch(container.String(), element.String())) return false;
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
  if (!Step(scopes_.size() / 16)) return Value();
  for (size_t i = scopes_.size(); i-- > 0;) {
    const auto it = scopes_[i].find(name);
    if (it != scopes_[i].end()) return it->second;
  }
  for (const char* known : {"range", "namespace", "dict", "raise_exception"}) {
    if (name == known) return Function{name, nullptr};
  }
  return Value::MakeUndefined(name);
}

}  // namespace quantd::jinja
