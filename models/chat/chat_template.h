// Chat messages -> the text of a prompt, by the template that comes with a model.
//
// Templates are Jinja as Transformers 5 renders them (trim_blocks, lstrip_blocks, loop controls,
// tojson with plain characters, raise_exception, {% generation %}), evaluated by a small
// interpreter with limits on steps and on what it makes. Not supported, and refused: include,
// import, blocks, call and filter blocks. None, as when Transformers is given none: tools,
// documents. Not defined: strftime_now.
#ifndef QUANTD_MODELS_CHAT_CHAT_TEMPLATE_H_
#define QUANTD_MODELS_CHAT_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

struct ChatMessage {
  std::string role;     // system, user, assistant, ...
  std::string content;  // valid UTF-8
};

struct ChatTokens {
  std::string bos;  // empty: undefined in the template
  std::string eos;
};

// The ChatML form ("<|im_start|>role\ncontent<|im_end|>\n"), for vocabularies that hold
// <|im_start|> and models that bring no template.
extern const char kChatMlTemplate[];

// A parsed template. Immutable; safe for any number of threads.
class ChatTemplate {
 public:
  // INVALID_ARGUMENT (naming the line) when `text` is no template, RESOURCE_EXHAUSTED above 1 MiB,
  // UNIMPLEMENTED for tags not supported.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view text);

  // INVALID_ARGUMENT when the template raises an exception (roles that do not alternate, say) or a
  // message is not valid UTF-8; RESOURCE_EXHAUSTED past the limits.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     bool add_generation_prompt, const ChatTokens& tokens) const;

 private:
  struct Program;
  explicit ChatTemplate(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  std::shared_ptr<const Program> program_;
};

// Parse and Render in one.
absl::StatusOr<std::string> RenderChat(absl::string_view template_text,
                                       const std::vector<ChatMessage>& messages,
                                       bool add_generation_prompt, const ChatTokens& tokens);

}  // namespace quantd

#endif  // QUANTD_MODELS_CHAT_CHAT_TEMPLATE_H_
