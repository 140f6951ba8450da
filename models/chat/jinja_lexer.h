// Cuts a template into text and tags, with Jinja 3's whitespace rules under trim_blocks and
// lstrip_blocks, which is how Transformers renders chat templates.
#ifndef QUANTD_MODELS_CHAT_JINJA_LEXER_H_
#define QUANTD_MODELS_CHAT_JINJA_LEXER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::jinja {

struct Token {
  enum class Kind {
    kText,         // outside tags
    kOutputBegin,  // {{
    kOutputEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  size_t line = 1;
};

// INVALID_ARGUMENT naming the line for an unclosed tag or string, or a character that has no place.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace quantd::jinja

#endif  // QUANTD_MODELS_CHAT_JINJA_LEXER_H_
