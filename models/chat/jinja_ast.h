// The syntax tree of a template.
#ifndef QUANTD_MODELS_CHAT_JINJA_AST_H_
#define QUANTD_MODELS_CHAT_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/chat/jinja_value.h"

namespace quantd::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,
    kName,
    kList,
    kMap,        // operands: key, value, key, value, ...
    kUnary,      // name: not - +
    kBinary,     // name: + - * / // % ** ~ and or == != < <= > >= in "not in"
    kCondition,  // operands: then, condition, else (else may be null)
    kAttribute,  // operands[0].name
    kItem,       // operands[0][operands[1]]
    kSlice,      // operands: value, start, stop, step (each may be null)
    kCall,       // operands[0](rest)
    kFilter,     // operands[0] | name(rest)
    kTest,       // operands[0] is name(rest); negated
  };
  Kind kind = Kind::kLiteral;
  Value value;
  std::string name;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  bool negated = false;
  size_t line = 1;
  int height = 1;
};

struct Statement {
  enum class Kind {
    kText,
    kOutput,
    kIf,   // expressions[i] guards bodies[i]; one more body is the else
    kFor,  // names in expressions[0] if expressions[1] (may be null): bodies[0], else bodies[1]
    kSet,  // names = expressions[0]; with two names and `attribute` a namespace field
    kSetBlock,  // names[0] = rendered bodies[0]
    kMacro,
    kScope,  // bodies[0] as it stands ({% generation %})
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  std::string text;
  std::vector<std::string> names;
  bool attribute = false;
  std::vector<ExpressionPtr> expressions;
  std::vector<std::vector<Statement>> bodies;
  std::unique_ptr<Macro> macro;
  size_t line = 1;
};

struct Macro {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // with defaults, or null
  std::vector<Statement> body;
};

// INVALID_ARGUMENT naming the line for what is not a template; UNIMPLEMENTED for tags that are not
// supported (include, import, block, call, filter). Nesting is at most 200 deep.
absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source);

}  // namespace quantd::jinja

#endif  // QUANTD_MODELS_CHAT_JINJA_AST_H_
