// Calls: macros, functions, methods.
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/chat/jinja_interpreter.h"

namespace quantd::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;

}  // namespace

Arguments Interpreter::EvaluateArguments(const Expression& expression) {
  Arguments arguments;
  for (size_t i = 1; i < expression.operands.size(); ++i) {
    arguments.positional.push_back(Evaluate(*expression.operands[i]));
  }
  for (const auto& [name, value] : expression.keywords) {
    arguments.keywords.emplace_back(name, Evaluate(*value));
    if (!HasRoom(arguments.keywords)) break;
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
    if (!HasRoom(fields)) return Value();
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
