#include "models/chat/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/chat/jinja_ast.h"
#include "models/chat/jinja_interpreter.h"
#include "models/tokenizers/unicode.h"

namespace quantd {

const char kChatMlTemplate[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

namespace {

constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

}  // namespace

struct ChatTemplate::Program {
  std::vector<jinja::Statement> statements;
};

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("chat template of ", text.size(), " bytes, the limit is ", kMaxTemplateBytes));
  }
  if (ValidUtf8Prefix(text) != text.size()) {
    return absl::InvalidArgumentError("chat template is not valid UTF-8");
  }
  auto program = std::make_shared<Program>();
  ASSIGN_OR_RETURN(program->statements, jinja::ParseTemplate(text));
  return ChatTemplate(std::move(program));
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 bool add_generation_prompt,
                                                 const ChatTokens& tokens) const {
  jinja::Limits limits;
  jinja::List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (ValidUtf8Prefix(message.content) != message.content.size() ||
        ValidUtf8Prefix(message.role) != message.role.size()) {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " is not valid UTF-8"));
    }
    limits.made_bytes += 16 * (message.role.size() + message.content.size());
    limits.steps += 1000 + message.content.size();
    list.push_back(jinja::Map{{"role", message.role}, {"content", message.content}});
  }
  jinja::Interpreter interpreter(limits);
  interpreter.SetGlobal("messages", std::move(list));
  interpreter.SetGlobal("add_generation_prompt", add_generation_prompt);
  // Transformers passes these as None when a call gives none.
  interpreter.SetGlobal("tools", jinja::None{});
  interpreter.SetGlobal("documents", jinja::None{});
  if (!tokens.bos.empty()) interpreter.SetGlobal("bos_token", tokens.bos);
  if (!tokens.eos.empty()) interpreter.SetGlobal("eos_token", tokens.eos);
  return interpreter.Run(program_->statements);
}

absl::StatusOr<std::string> RenderChat(absl::string_view template_text,
                                       const std::vector<ChatMessage>& messages,
                                       bool add_generation_prompt, const ChatTokens& tokens) {
  ASSIGN_OR_RETURN(const ChatTemplate parsed, ChatTemplate::Parse(template_text));
  return parsed.Render(messages, add_generation_prompt, tokens);
}

}  // namespace quantd
