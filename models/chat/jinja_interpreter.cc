#include "models/chat/jinja_interpreter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace quantd::jinja {

using StatementKind = Statement::Kind;

Value Arguments::Get(size_t i, absl::string_view name) const {
  if (i < positional.size()) return positional[i];
  const Value* found = FindKey(keywords, name);
  return found == nullptr ? Value() : *found;
}

Value Interpreter::Fail(absl::string_view reason) {
  if (ok()) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("chat template, line ", line_, ": ", reason.substr(0, 400)));
  }
  return Value();
}

Value Interpreter::Unsupported(absl::string_view what) {
  if (ok()) {
    status_ = absl::UnimplementedError(absl::StrCat("chat template, line ", line_, ": ",
                                                    what.substr(0, 200), " is not supported"));
  }
  return Value();
}

bool Interpreter::Step(size_t count) {
  steps_ += count;
  if (ok() && steps_ > limits_.steps) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: more than ", limits_.steps, " steps"));
  }
  return ok();
}

bool Interpreter::Charge(size_t bytes) {
  made_bytes_ += bytes;
  if (ok() && (bytes > limits_.made_bytes || made_bytes_ > limits_.made_bytes)) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: makes more than ", limits_.made_bytes, " bytes"));
  }
  return ok();
}

bool Interpreter::StepSearch(absl::string_view text, absl::string_view part) {
  return Step(1 + text.size() / 64 * (1 + part.size() / 256));
}

bool Interpreter::HasRoom(const Map& map) {
  if (ok() && map.size() > limits_.map_entries) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("chat template: a mapping of more than ", limits_.map_entries, " entries"));
  }
  return ok();
}

void Interpreter::Emit(absl::string_view text) {
  if (Charge(text.size())) absl::StrAppend(&output_, text);
}

absl::StatusOr<std::string> Interpreter::Run(const std::vector<Statement>& statements) {
  RunBody(statements);
  if (!ok()) return status_;
  return std::move(output_);
}

Interpreter::Flow Interpreter::RunBody(const std::vector<Statement>& body) {
  for (const Statement& statement : body) {
    if (!Step()) return Flow::kBreak;
    line_ = statement.line;
    const Flow flow = RunStatement(statement);
    if (!ok()) return Flow::kBreak;
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::RunStatement(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::kText:
      Emit(statement.text);
      return Flow::kNext;
    case StatementKind::kOutput: {
      const Value value = Evaluate(*statement.expressions[0]);
      Emit(TextOf(value));
      return Flow::kNext;
    }
    case StatementKind::kIf:
      for (size_t i = 0; i < statement.bodies.size(); ++i) {
        const bool taken =
            i == statement.expressions.size() || Evaluate(*statement.expressions[i]).Truth();
        if (!ok()) return Flow::kBreak;
        if (taken) return RunBody(statement.bodies[i]);
      }
      return Flow::kNext;
    case StatementKind::kFor:
      return RunFor(statement);
    case StatementKind::kSet:
      RunSet(statement);
      return Flow::kNext;
    case StatementKind::kSetBlock:
      scopes_.back()[statement.names[0]] = Text(Capture(statement.bodies[0]));
      return Flow::kNext;
    case StatementKind::kMacro:
      scopes_.back()[statement.macro->name] = Value(statement.macro.get());
      return Flow::kNext;
    case StatementKind::kScope:
      return RunBody(statement.bodies[0]);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

// Runs a body with its output kept apart.
std::string Interpreter::Capture(const std::vector<Statement>& body) {
  std::string outer = std::exchange(output_, "");
  RunBody(body);
  return std::exchange(output_, std::move(outer));
}

void Interpreter::Bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scopes_.back()[names[0]] = value;
    return;
  }
  if (!value.IsList() || value.AsList().size() != names.size()) {
    Fail(absl::StrCat("cannot unpack a ", value.TypeName(), " into ", names.size(), " names"));
    return;
  }
  for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = value.AsList()[i];
}

void Interpreter::RunSet(const Statement& statement) {
  const Value value = Evaluate(*statement.expressions[0]);
  if (!ok()) return;
  if (!statement.attribute) return Bind(statement.names, value);
  Namespace* space = Lookup(statement.names[0]).AsNamespace();
  if (space == nullptr) {
    Fail(absl::StrCat("cannot set a field of ", statement.names[0], ", which is no namespace"));
    return;
  }
  if (value.AsNamespace() != nullptr) {  // two could hold each other and never be freed
    Unsupported("a namespace in a namespace");
    return;
  }
  for (auto& [name, field] : space->fields) {
    if (name == statement.names[1]) {
      field = value;
      return;
    }
  }
  space->fields.emplace_back(statement.names[1], value);
  HasRoom(space->fields);
}

namespace {

Value LoopVariable(const List& items, size_t i) {
  const int64_t index = static_cast<int64_t>(i), count = static_cast<int64_t>(items.size());
  Map loop;
  loop.emplace_back("index", index + 1);
  loop.emplace_back("index0", index);
  loop.emplace_back("revindex", count - index);
  loop.emplace_back("revindex0", count - index - 1);
  loop.emplace_back("first", index == 0);
  loop.emplace_back("last", index + 1 == count);
  loop.emplace_back("length", count);
  if (index > 0) loop.emplace_back("previtem", items[i - 1]);
  if (index + 1 < count) loop.emplace_back("nextitem", items[i + 1]);
  return loop;
}

}  // namespace

Interpreter::Flow Interpreter::RunFor(const Statement& statement) {
  List items = Elements(Evaluate(*statement.expressions[0]));
  if (!ok()) return Flow::kBreak;
  scopes_.emplace_back();
  if (statement.expressions[1] != nullptr) {
    List kept;
    for (const Value& item : items) {
      Bind(statement.names, item);
      if (Evaluate(*statement.expressions[1]).Truth()) kept.push_back(item);
      if (!Step()) break;
    }
    items = std::move(kept);
  }
  Flow flow = Flow::kNext;
  for (size_t i = 0; i < items.size() && ok() && flow != Flow::kBreak; ++i) {
    scopes_.back().clear();
    Bind(statement.names, items[i]);
    scopes_.back()["loop"] = LoopVariable(items, i);
    flow = RunBody(statement.bodies[0]);
  }
  scopes_.pop_back();
  if (items.empty() && ok()) return RunBody(statement.bodies[1]);
  return Flow::kNext;
}

}  // namespace quantd::jinja
