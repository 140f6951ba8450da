// Runs a template. Every step and every byte made is counted, so that no template from a file can
// loop or grow without end; there is nothing in the language that reaches outside the template.
#ifndef QUANTD_MODELS_CHAT_JINJA_INTERPRETER_H_
#define QUANTD_MODELS_CHAT_JINJA_INTERPRETER_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/chat/jinja_ast.h"

namespace quantd::jinja {

struct Limits {
  size_t steps = 1'000'000;              // statements and expressions evaluated
  size_t made_bytes = size_t{64} << 20;  // strings and lists made on the way, output included
  int call_depth = 32;                   // macros, map() of map()
  int value_depth = 64;                  // lists in lists
  size_t map_entries = 1024;             // of one mapping, which is searched from its front
};

// Arguments of a call, filter or test.
struct Arguments {
  List positional;
  Map keywords;

  // The argument at `i` or named `name`; undefined when there is none.
  Value Get(size_t i, absl::string_view name) const;
  size_t size() const { return positional.size() + keywords.size(); }
};

class Interpreter {
 public:
  explicit Interpreter(const Limits& limits) : limits_(limits), scopes_(1) {}

  void SetGlobal(const std::string& name, Value value) { scopes_[0][name] = std::move(value); }

  // INVALID_ARGUMENT when the template raises an exception or does what its language forbids;
  // RESOURCE_EXHAUSTED past a limit; UNIMPLEMENTED for a filter, test or method not supported.
  absl::StatusOr<std::string> Run(const std::vector<Statement>& statements);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = absl::flat_hash_map<std::string, Value>;

  bool ok() const { return status_.ok(); }
  Value Fail(absl::string_view reason);
  Value Unsupported(absl::string_view what);
  bool Step(size_t count = 1);
  bool Charge(size_t bytes);  // before bytes are made
  // Before going through text as memory is compared or copied, and before looking for `part` in it,
  // which at worst compares the two at every place.
  bool StepThrough(size_t bytes) { return Step(bytes / 1024); }
  bool StepSearch(absl::string_view text, absl::string_view part);
  bool StepStrip(absl::string_view text, const Value& characters);
  bool HasRoom(const Map& map);  // whether it is small enough
  // Text, equality and order of values that may be large: charged.
  std::string TextOf(const Value& value);
  bool Same(const Value& a, const Value& b);
  int Order(const Value& a, const Value& b, bool* comparable);

  // Statements (jinja_interpreter.cc).
  Flow RunBody(const std::vector<Statement>& body);
  Flow RunStatement(const Statement& statement);
  Flow RunFor(const Statement& statement);
  void RunSet(const Statement& statement);
  void Bind(const std::vector<std::string>& names, const Value& value);
  std::string Capture(const std::vector<Statement>& body);
  void Emit(absl::string_view text);

  // Expressions (jinja_expressions.cc).
  Value Evaluate(const Expression& expression);
  Value EvaluateUnchecked(const Expression& expression);
  Value EvaluateBinary(const Expression& expression);
  Value EvaluateUnary(const Expression& expression);
  Value Compute(const std::string& name, const Value& left, const Value& right);
  Value Arithmetic(char op, const Value& left, const Value& right);
  Value Contains(const Value& container, const Value& element);
  Value Lookup(const std::string& name);
  Value Text(std::string text);  // charged

  // Parts of values (jinja_subscripts.cc).
  Value Attribute(const Value& value, const std::string& name);
  Value Item(const Value& value, const Value& key);
  Value Slice(const Expression& expression);
  Value SliceText(const std::string& text, const Value& start, const Value& stop, int64_t step);
  // The elements that a loop over `value` visits.
  List Elements(const Value& value);

  // Calls (jinja_calls.cc).
  Value Call(const Expression& expression);
  Value CallMacro(const Macro& macro, const Arguments& arguments);
  Value CallGlobal(const std::string& name, const Arguments& arguments);
  Arguments EvaluateArguments(const Expression& expression);

  // Methods (jinja_methods.cc).
  Value CallMethod(const Value& self, const std::string& name, const Arguments& arguments);
  Value StringMethod(const std::string& self, const std::string& name, const Arguments& arguments);
  Value MapMethod(const Map& self, const std::string& name, const Arguments& arguments);
  Value Split(const std::string& self, const Value& separator, const Value& limit);

  // Filters and tests (jinja_filters.cc).
  Value Filter(const std::string& name, const Value& value, const Arguments& arguments);
  Value TextFilter(const std::string& name, const Value& value, const Arguments& arguments,
                   bool* known);
  Value ListFilter(const std::string& name, const Value& value, const Arguments& arguments,
                   bool* known);
  Value Select(const std::string& name, const Value& value, const Arguments& arguments);
  Value Map_(const Value& value, const Arguments& arguments);
  Value Join(const Value& value, const Arguments& arguments);
  bool Test(const std::string& name, const Value& value, const Arguments& arguments);

  Limits limits_;
  size_t steps_ = 0, made_bytes_ = 0;
  int call_depth_ = 0;  // macros, and filters that apply a filter
  size_t line_ = 1;
  std::vector<Scope> scopes_;
  std::string output_;
  absl::Status status_;
};

// Text functions with Python's meaning, on bytes of ASCII case and Unicode white space.
std::string StripText(absl::string_view text, const Value& characters, bool left, bool right);
std::string ReplaceText(absl::string_view text, absl::string_view from, absl::string_view to,
                        int64_t limit);
std::string UpperText(absl::string_view text);
std::string LowerText(absl::string_view text);
std::string CapitalizeText(absl::string_view text);
std::string TitleText(absl::string_view text);
size_t CharacterCount(absl::string_view text);

}  // namespace quantd::jinja

#endif  // QUANTD_MODELS_CHAT_JINJA_INTERPRETER_H_
