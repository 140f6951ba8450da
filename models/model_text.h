// The tokenizer and chat template of a checkpoint.
#ifndef QUANTD_MODELS_MODEL_TEXT_H_
#define QUANTD_MODELS_MODEL_TEXT_H_

#include <memory>
#include <optional>
#include <string>

#include "core/status.h"
#include "models/chat/chat_template.h"
#include "models/tokenizers/tokenizer.h"
#include "quantizers/model_source.h"

namespace quantd {

struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;  // null: the checkpoint has none
  std::optional<ChatTemplate> chat_template;
  ChatTokens chat_tokens;
  // Why the checkpoint's chat template cannot be used; completions still work.
  absl::Status chat_status = absl::NotFoundError("the model has no chat template");
};

// From tokenizer.json, tokenizer_config.json and chat_template.jinja, or from a GGUF's metadata.
// INVALID_ARGUMENT names the file or key that is broken, also when it has more tokens than the
// embedding has rows.
absl::StatusOr<ModelText> LoadModelText(const ModelSource& source);

// The beginning-of-sequence token that the tokenizer puts before a text, if it does.
absl::StatusOr<std::optional<int32_t>> LeadingBos(const Tokenizer& tokenizer);

}  // namespace quantd

#endif  // QUANTD_MODELS_MODEL_TEXT_H_
