// Recursive descent over the tokens of a template: the cursor, and the grammar of expressions.
// jinja_parser.cc adds the statements.
#ifndef QUANTD_MODELS_CHAT_JINJA_EXPRESSION_PARSER_H_
#define QUANTD_MODELS_CHAT_JINJA_EXPRESSION_PARSER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "models/chat/jinja_ast.h"
#include "models/chat/jinja_lexer.h"

namespace quantd::jinja {

inline constexpr int kMaxNesting = 200;

// The first mistake is kept in `status_`; after it the cursor stands at the end and everything
// unwinds.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& Peek() const { return tokens_[i_]; }
  bool failed() const { return !status_.ok(); }
  void Fail(absl::string_view reason);  // INVALID_ARGUMENT with the line

  bool IsOperator(absl::string_view text) const;
  bool IsName(absl::string_view text) const;
  bool TakeOperator(absl::string_view text);
  bool TakeName(absl::string_view text);
  void Expect(absl::string_view text);
  std::string Name();

  ExpressionPtr Condition();
  ExpressionPtr Or();
  // "a, b" without parentheses is a tuple.
  ExpressionPtr Tuple();

  std::vector<Token> tokens_;
  size_t i_ = 0;
  int depth_ = 0;
  absl::Status status_;

 private:
  ExpressionPtr Make(Expression::Kind kind, std::string name = "") const;
  void Attach(Expression* parent, ExpressionPtr child);
  ExpressionPtr Binary(std::string name, ExpressionPtr left, ExpressionPtr right);
  ExpressionPtr Literal(Value value) const;

  // Loosest binding first.
  ExpressionPtr And();
  ExpressionPtr Not();
  ExpressionPtr Comparison();
  ExpressionPtr Sum();
  ExpressionPtr Concatenation();
  ExpressionPtr Product();
  ExpressionPtr Unary(bool with_filters = true);
  ExpressionPtr FiltersAndTests(ExpressionPtr value);
  bool TestTakesArgument() const;
  ExpressionPtr Postfix(ExpressionPtr value);
  ExpressionPtr Subscript(ExpressionPtr value);
  void Arguments(Expression* call);
  ExpressionPtr Primary();
  ExpressionPtr Sequence(absl::string_view close);
  ExpressionPtr MapLiteral();
};

}  // namespace quantd::jinja

#endif  // QUANTD_MODELS_CHAT_JINJA_EXPRESSION_PARSER_H_
