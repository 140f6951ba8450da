#include "models/chat/jinja_expression_parser.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quantd::jinja {

using TokenKind = Token::Kind;
using Kind = Expression::Kind;

void ExpressionParser::Fail(absl::string_view reason) {
  if (!failed()) {
    status_ =
        absl::InvalidArgumentError(absl::StrCat("chat template, line ", Peek().line, ": ", reason));
  }
  i_ = tokens_.size() - 1;  // kEnd
}

bool ExpressionParser::IsOperator(absl::string_view text) const {
  return Peek().kind == TokenKind::kOperator && Peek().text == text;
}

bool ExpressionParser::IsName(absl::string_view text) const {
  return Peek().kind == TokenKind::kName && Peek().text == text;
}

bool ExpressionParser::TakeOperator(absl::string_view text) {
  if (!IsOperator(text)) return false;
  ++i_;
  return true;
}

bool ExpressionParser::TakeName(absl::string_view text) {
  if (!IsName(text)) return false;
  ++i_;
  return true;
}

void ExpressionParser::Expect(absl::string_view text) {
  if (!TakeOperator(text)) Fail(absl::StrCat("expected '", text, "'"));
}

std::string ExpressionParser::Name() {
  if (Peek().kind == TokenKind::kName) return tokens_[i_++].text;
  Fail("expected a name");
  return "";
}

ExpressionPtr ExpressionParser::Make(Kind kind, std::string name) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->name = std::move(name);
  expression->line = Peek().line;
  return expression;
}

void ExpressionParser::Attach(Expression* parent, ExpressionPtr child) {
  if (child != nullptr) {
    parent->height = std::max(parent->height, child->height + 1);
    if (parent->height > kMaxNesting) Fail("expression nested too deep");
  }
  parent->operands.push_back(std::move(child));
}

ExpressionPtr ExpressionParser::Binary(std::string name, ExpressionPtr left, ExpressionPtr right) {
  ExpressionPtr node = Make(Kind::kBinary, std::move(name));
  Attach(node.get(), std::move(left));
  Attach(node.get(), std::move(right));
  return node;
}

ExpressionPtr ExpressionParser::Condition() {
  if (++depth_ > kMaxNesting) Fail("nested too deep");
  ExpressionPtr value = Or();
  while (!failed() && TakeName("if")) {
    ExpressionPtr node = Make(Kind::kCondition);
    Attach(node.get(), std::move(value));
    Attach(node.get(), Or());
    Attach(node.get(), TakeName("else") ? Condition() : nullptr);
    value = std::move(node);
  }
  --depth_;
  return value;
}

ExpressionPtr ExpressionParser::Or() {
  ExpressionPtr left = And();
  while (!failed() && TakeName("or")) left = Binary("or", std::move(left), And());
  return left;
}

ExpressionPtr ExpressionParser::And() {
  ExpressionPtr left = Not();
  while (!failed() && TakeName("and")) left = Binary("and", std::move(left), Not());
  return left;
}

ExpressionPtr ExpressionParser::Not() {
  if (!TakeName("not")) return Comparison();
  if (++depth_ > kMaxNesting) Fail("nested too deep");
  ExpressionPtr node = Make(Kind::kUnary, "not");
  Attach(node.get(), Not());
  --depth_;
  return node;
}

ExpressionPtr ExpressionParser::Comparison() {
  ExpressionPtr left = Sum();
  while (!failed()) {
    std::string name;
    for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (name.empty() && TakeOperator(op)) name = op;
    }
    if (name.empty() && TakeName("in")) name = "in";
    if (name.empty() && IsName("not") && tokens_[i_ + 1].kind == TokenKind::kName &&
        tokens_[i_ + 1].text == "in") {
      i_ += 2;
      name = "not in";
    }
    if (name.empty()) break;
    left = Binary(std::move(name), std::move(left), Sum());
  }
  return left;
}

ExpressionPtr ExpressionParser::Sum() {
  ExpressionPtr left = Concatenation();
  while (!failed() && (IsOperator("+") || IsOperator("-"))) {
    std::string name = tokens_[i_++].text;
    left = Binary(std::move(name), std::move(left), Concatenation());
  }
  return left;
}

ExpressionPtr ExpressionParser::Concatenation() {
  ExpressionPtr left = Product();
  while (!failed() && TakeOperator("~")) left = Binary("~", std::move(left), Product());
  return left;
}

ExpressionPtr ExpressionParser::Product() {
  ExpressionPtr left = Unary();
  while (!failed() && (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%"))) {
    std::string name = tokens_[i_++].text;
    left = Binary(std::move(name), std::move(left), Unary());
  }
  return left;
}

ExpressionPtr ExpressionParser::Unary(bool with_filters) {
  ExpressionPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    if (++depth_ > kMaxNesting) Fail("nested too deep");
    std::string name = tokens_[i_].text;
    if (!failed()) ++i_;
    node = Make(Kind::kUnary, std::move(name));
    Attach(node.get(), Unary(false));
    --depth_;
  } else {
    node = Postfix(Primary());
    if (!failed() && TakeOperator("**")) node = Binary("**", std::move(node), Unary(false));
  }
  return with_filters ? FiltersAndTests(Postfix(std::move(node))) : std::move(node);
}

ExpressionPtr ExpressionParser::FiltersAndTests(ExpressionPtr value) {
  while (!failed()) {
    if (TakeOperator("|")) {
      ExpressionPtr node = Make(Kind::kFilter, Name());
      Attach(node.get(), std::move(value));
      if (TakeOperator("(")) Arguments(node.get());
      value = Postfix(std::move(node));
    } else if (TakeName("is")) {
      ExpressionPtr node = Make(Kind::kTest);
      node->negated = TakeName("not");
      node->name = Name();
      Attach(node.get(), std::move(value));
      if (TakeOperator("(")) {
        Arguments(node.get());
      } else if (TestTakesArgument()) {
        Attach(node.get(), Postfix(Primary()));
      }
      value = std::move(node);
    } else {
      break;
    }
  }
  return value;
}

// "x is divisibleby 3": an operand right behind the name of the test.
bool ExpressionParser::TestTakesArgument() const {
  const Token& token = Peek();
  if (token.kind == TokenKind::kName) {
    for (const char* word : {"else", "or", "and", "is", "if", "in", "not"}) {
      if (token.text == word) return false;
    }
    return true;
  }
  return token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
         token.kind == TokenKind::kFloat || IsOperator("[") || IsOperator("{");
}

ExpressionPtr ExpressionParser::Postfix(ExpressionPtr value) {
  while (!failed()) {
    ExpressionPtr node;
    if (TakeOperator(".")) {
      node = Make(Kind::kAttribute);
      if (Peek().kind == TokenKind::kInteger) {
        node->kind = Kind::kItem;
        Attach(node.get(), std::move(value));
        Attach(node.get(), Primary());
      } else {
        node->name = Name();
        Attach(node.get(), std::move(value));
      }
    } else if (TakeOperator("[")) {
      node = Subscript(std::move(value));
    } else if (TakeOperator("(")) {
      node = Make(Kind::kCall);
      Attach(node.get(), std::move(value));
      Arguments(node.get());
    } else {
      break;
    }
    value = std::move(node);
  }
  return value;
}

ExpressionPtr ExpressionParser::Subscript(ExpressionPtr value) {
  ExpressionPtr parts[3];
  size_t colons = 0;
  while (!failed() && !IsOperator("]")) {
    if (TakeOperator(":")) {
      if (++colons > 2) Fail("too many ':' in a slice");
    } else {
      parts[std::min<size_t>(colons, 2)] = Condition();
    }
  }
  Expect("]");
  ExpressionPtr node = Make(colons > 0 ? Kind::kSlice : Kind::kItem);
  Attach(node.get(), std::move(value));
  if (colons == 0 && parts[0] == nullptr) Fail("expected an index");
  for (size_t k = 0; k < (colons > 0 ? 3 : 1); ++k) Attach(node.get(), std::move(parts[k]));
  return node;
}

// After "(".
void ExpressionParser::Arguments(Expression* call) {
  while (!failed() && !TakeOperator(")")) {
    if (Peek().kind == TokenKind::kName && tokens_[i_ + 1].kind == TokenKind::kOperator &&
        tokens_[i_ + 1].text == "=") {
      std::string name = Name();
      ++i_;
      ExpressionPtr value = Condition();
      if (value != nullptr) call->height = std::max(call->height, value->height + 1);
      call->keywords.emplace_back(std::move(name), std::move(value));
    } else {
      Attach(call, Condition());
    }
    if (!IsOperator(")")) Expect(",");
  }
}

ExpressionPtr ExpressionParser::Literal(Value value) const {
  ExpressionPtr node = Make(Kind::kLiteral);
  node->value = std::move(value);
  return node;
}

ExpressionPtr ExpressionParser::Primary() {
  const Token token = Peek();
  if (token.kind != TokenKind::kEnd) ++i_;
  if (token.kind == TokenKind::kString) {
    std::string text = token.text;
    while (Peek().kind == TokenKind::kString) text += tokens_[i_++].text;  // as in Python
    return Literal(std::move(text));
  }
  if (token.kind == TokenKind::kInteger) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(token.text, &value)) Fail("integer too large");
    return Literal(value);
  }
  if (token.kind == TokenKind::kFloat) {
    double value = 0;
    if (!absl::SimpleAtod(token.text, &value)) Fail("bad number");
    return Literal(value);
  }
  if (token.kind == TokenKind::kName) {
    if (token.text == "true" || token.text == "True") return Literal(true);
    if (token.text == "false" || token.text == "False") return Literal(false);
    if (token.text == "none" || token.text == "None") return Literal(None{});
    return Make(Kind::kName, token.text);
  }
  if (token.kind == TokenKind::kOperator && token.text == "(") return Sequence(")");
  if (token.kind == TokenKind::kOperator && token.text == "[") return Sequence("]");
  if (token.kind == TokenKind::kOperator && token.text == "{") return MapLiteral();
  --i_;
  Fail("expected an expression");
  return Literal(None{});
}

// A list, a tuple, or an expression in parentheses.
ExpressionPtr ExpressionParser::Sequence(absl::string_view close) {
  ExpressionPtr node = Make(Kind::kList);
  bool comma = false;
  while (!failed() && !TakeOperator(close)) {
    Attach(node.get(), Condition());
    if (!IsOperator(close)) {
      Expect(",");
      comma = true;
    }
  }
  if (close == ")" && !comma && node->operands.size() == 1) return std::move(node->operands[0]);
  return node;
}

ExpressionPtr ExpressionParser::MapLiteral() {
  ExpressionPtr node = Make(Kind::kMap);
  while (!failed() && !TakeOperator("}")) {
    Attach(node.get(), Condition());
    Expect(":");
    Attach(node.get(), Condition());
    if (!IsOperator("}")) Expect(",");
  }
  return node;
}

// "a, b" without parentheses is a tuple.
ExpressionPtr ExpressionParser::Tuple() {
  ExpressionPtr first = Condition();
  if (!IsOperator(",")) return first;
  ExpressionPtr node = Make(Kind::kList);
  Attach(node.get(), std::move(first));
  while (!failed() && TakeOperator(",")) {
    if (Peek().kind == TokenKind::kBlockEnd || Peek().kind == TokenKind::kOutputEnd) break;
    Attach(node.get(), Condition());
  }
  return node;
}

}  // namespace quantd::jinja
