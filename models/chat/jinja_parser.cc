#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/chat/jinja_ast.h"
#include "models/chat/jinja_lexer.h"

namespace quantd::jinja {
namespace {

using TokenKind = Token::Kind;
using Kind = Expression::Kind;

constexpr int kMaxNesting = 200;

// Recursive descent. The first mistake is kept in status_; after it everything unwinds.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<std::vector<Statement>> Run() {
    std::vector<Statement> body = Body();
    if (status_.ok() && Peek().kind != TokenKind::kEnd) {
      Fail(absl::StrCat("unexpected tag ", tokens_[i_ + 1].text));
    }
    if (failed()) return status_;
    return body;
  }

 private:
  const Token& Peek() const { return tokens_[i_]; }
  bool failed() const { return !status_.ok(); }

  void Fail(absl::string_view reason) {
    if (!failed()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("chat template, line ", Peek().line, ": ", reason));
    }
    i_ = tokens_.size() - 1;  // kEnd
  }

  bool IsOperator(absl::string_view text) const {
    return Peek().kind == TokenKind::kOperator && Peek().text == text;
  }
  bool IsName(absl::string_view text) const {
    return Peek().kind == TokenKind::kName && Peek().text == text;
  }
  bool TakeOperator(absl::string_view text) {
    if (!IsOperator(text)) return false;
    ++i_;
    return true;
  }
  bool TakeName(absl::string_view text) {
    if (!IsName(text)) return false;
    ++i_;
    return true;
  }
  void Expect(absl::string_view text) {
    if (!TakeOperator(text)) Fail(absl::StrCat("expected '", text, "'"));
  }
  std::string Name() {
    if (Peek().kind == TokenKind::kName) return tokens_[i_++].text;
    Fail("expected a name");
    return "";
  }
  void EndBlock() {
    if (Peek().kind == TokenKind::kBlockEnd) {
      ++i_;
    } else {
      Fail("expected the end of the tag");
    }
  }

  ExpressionPtr Make(Kind kind, std::string name = "") {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->name = std::move(name);
    expression->line = Peek().line;
    return expression;
  }
  void Attach(Expression* parent, ExpressionPtr child) {
    if (child != nullptr) {
      parent->height = std::max(parent->height, child->height + 1);
      if (parent->height > kMaxNesting) Fail("expression nested too deep");
    }
    parent->operands.push_back(std::move(child));
  }
  ExpressionPtr Binary(std::string name, ExpressionPtr left, ExpressionPtr right) {
    ExpressionPtr node = Make(Kind::kBinary, std::move(name));
    Attach(node.get(), std::move(left));
    Attach(node.get(), std::move(right));
    return node;
  }

  // --- expressions, loosest binding first ---

  ExpressionPtr Condition() {
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
  ExpressionPtr Or() {
    ExpressionPtr left = And();
    while (!failed() && TakeName("or")) left = Binary("or", std::move(left), And());
    return left;
  }
  ExpressionPtr And() {
    ExpressionPtr left = Not();
    while (!failed() && TakeName("and")) left = Binary("and", std::move(left), Not());
    return left;
  }
  ExpressionPtr Not() {
    if (!TakeName("not")) return Comparison();
    if (++depth_ > kMaxNesting) Fail("nested too deep");
    ExpressionPtr node = Make(Kind::kUnary, "not");
    Attach(node.get(), Not());
    --depth_;
    return node;
  }
  ExpressionPtr Comparison() {
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
  ExpressionPtr Sum() {
    ExpressionPtr left = Concatenation();
    while (!failed() && (IsOperator("+") || IsOperator("-"))) {
      std::string name = tokens_[i_++].text;
      left = Binary(std::move(name), std::move(left), Concatenation());
    }
    return left;
  }
  ExpressionPtr Concatenation() {
    ExpressionPtr left = Product();
    while (!failed() && TakeOperator("~")) left = Binary("~", std::move(left), Product());
    return left;
  }
  ExpressionPtr Product() {
    ExpressionPtr left = Unary();
    while (!failed() &&
           (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%"))) {
      std::string name = tokens_[i_++].text;
      left = Binary(std::move(name), std::move(left), Unary());
    }
    return left;
  }
  ExpressionPtr Unary(bool with_filters = true) {
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
  ExpressionPtr FiltersAndTests(ExpressionPtr value) {
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
  bool TestTakesArgument() const {
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
  ExpressionPtr Postfix(ExpressionPtr value) {
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
  ExpressionPtr Subscript(ExpressionPtr value) {
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
  void Arguments(Expression* call) {
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
  ExpressionPtr Literal(Value value) {
    ExpressionPtr node = Make(Kind::kLiteral);
    node->value = std::move(value);
    return node;
  }
  ExpressionPtr Primary() {
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
  ExpressionPtr Sequence(absl::string_view close) {
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
  ExpressionPtr MapLiteral() {
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
  ExpressionPtr Tuple() {
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

  // --- statements ---

  // Up to a block whose name is not a statement's (endfor, else, ...), which is left.
  std::vector<Statement> Body() {
    std::vector<Statement> body;
    if (++depth_ > kMaxNesting) Fail("nested too deep");
    while (!failed() && Peek().kind != TokenKind::kEnd) {
      Statement statement;
      statement.line = Peek().line;
      if (Peek().kind == TokenKind::kText) {
        statement.text = std::move(tokens_[i_++].text);
      } else if (Peek().kind == TokenKind::kOutputBegin) {
        ++i_;
        statement.kind = Statement::Kind::kOutput;
        statement.expressions.push_back(Tuple());
        if (!failed() && Peek().kind != TokenKind::kOutputEnd) Fail("expected '}}'");
        if (!failed()) ++i_;
      } else if (AtEndOfBody()) {
        break;
      } else {
        ++i_;
        Block(&statement);
      }
      body.push_back(std::move(statement));
    }
    --depth_;
    return body;
  }
  bool AtEndOfBody() const {
    const std::string& name = tokens_[i_ + 1].text;
    return name == "else" || name == "elif" || name.compare(0, 3, "end") == 0;
  }
  // Whether the body just parsed ends with this block; takes its name.
  bool TakeTag(absl::string_view name) {
    if (failed() || Peek().kind != TokenKind::kBlockBegin || tokens_[i_ + 1].text != name) {
      return false;
    }
    i_ += 2;
    return true;
  }
  void EndTag(absl::string_view name) {
    if (!TakeTag(name)) return Fail(absl::StrCat("expected {% ", name, " %}"));
    EndBlock();
  }

  void Block(Statement* out) {
    const std::string name = Name();
    if (name == "if") return If(out);
    if (name == "for") return For(out);
    if (name == "set") return Set(out);
    if (name == "macro") return MacroBlock(out);
    if (name == "generation") {
      out->kind = Statement::Kind::kScope;
      EndBlock();
      out->bodies.push_back(Body());
      return EndTag("endgeneration");
    }
    if (name == "break" || name == "continue") {
      out->kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      if (loops_ == 0) Fail(absl::StrCat(name, " outside a loop"));
      return EndBlock();
    }
    if (!failed()) {
      status_ = absl::UnimplementedError(absl::StrCat("chat template, line ", out->line, ": tag '",
                                                      name.substr(0, 64), "' is not supported"));
      Fail("");
    }
  }
  void If(Statement* out) {
    out->kind = Statement::Kind::kIf;
    do {
      out->expressions.push_back(Condition());
      EndBlock();
      out->bodies.push_back(Body());
    } while (TakeTag("elif"));
    if (TakeTag("else")) {
      EndBlock();
      out->bodies.push_back(Body());
    }
    EndTag("endif");
  }
  void For(Statement* out) {
    out->kind = Statement::Kind::kFor;
    const bool parenthesized = TakeOperator("(");
    do {
      out->names.push_back(Name());
    } while (!failed() && TakeOperator(","));
    if (parenthesized) Expect(")");
    if (!TakeName("in")) Fail("expected 'in'");
    out->expressions.push_back(Or());
    out->expressions.push_back(TakeName("if") ? Condition() : nullptr);
    if (IsName("recursive")) Fail("recursive loops are not supported");
    EndBlock();
    ++loops_;
    out->bodies.push_back(Body());
    --loops_;
    out->bodies.emplace_back();
    if (TakeTag("else")) {
      EndBlock();
      out->bodies[1] = Body();
    }
    EndTag("endfor");
  }
  void Set(Statement* out) {
    out->kind = Statement::Kind::kSet;
    out->names.push_back(Name());
    if (TakeOperator(".")) {
      out->attribute = true;
      out->names.push_back(Name());
    }
    while (!failed() && !out->attribute && TakeOperator(",")) out->names.push_back(Name());
    if (TakeOperator("=")) {
      out->expressions.push_back(Tuple());
      return EndBlock();
    }
    out->kind = Statement::Kind::kSetBlock;
    EndBlock();
    out->bodies.push_back(Body());
    EndTag("endset");
  }
  void MacroBlock(Statement* out) {
    out->kind = Statement::Kind::kMacro;
    out->macro = std::make_unique<Macro>();
    out->macro->name = Name();
    Expect("(");
    while (!failed() && !TakeOperator(")")) {
      std::string name = Name();
      out->macro->parameters.emplace_back(std::move(name),
                                          TakeOperator("=") ? Condition() : nullptr);
      if (!IsOperator(")")) Expect(",");
    }
    EndBlock();
    const int loops = std::exchange(loops_, 0);
    out->macro->body = Body();
    loops_ = loops;
    EndTag("endmacro");
  }

  std::vector<Token> tokens_;
  size_t i_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace quantd::jinja
