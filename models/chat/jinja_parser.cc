#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/chat/jinja_ast.h"
#include "models/chat/jinja_expression_parser.h"
#include "models/chat/jinja_lexer.h"

namespace quantd::jinja {
namespace {

using TokenKind = Token::Kind;

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  absl::StatusOr<std::vector<Statement>> Run() {
    std::vector<Statement> body = Body();
    if (status_.ok() && Peek().kind != TokenKind::kEnd) {
      Fail(absl::StrCat("unexpected tag ", tokens_[i_ + 1].text));
    }
    if (failed()) return status_;
    return body;
  }

 private:
  void EndBlock() {
    if (Peek().kind == TokenKind::kBlockEnd) {
      ++i_;
    } else {
      Fail("expected the end of the tag");
    }
  }

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

  int loops_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace quantd::jinja
