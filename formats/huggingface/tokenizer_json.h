// tokenizer.json and tokenizer_config.json <-> TokenizerSpec.
//
// Reading is strict: RFC 8259 without byte order mark, each key once, at most 64 levels, every
// field of the kind the schema of PyPI `tokenizers` 0.23 says. Text that is wrong is
// INVALID_ARGUMENT, a component that exists upstream but not here is UNIMPLEMENTED; both name the
// field. Memory stays within a small multiple of the text.
#ifndef QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_H_
#define QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

// Parses the text of a tokenizer.json. Checked on return: ids are unique, not negative and not
// absurdly sparse; merges, the unknown token and template ids name tokens that exist.
// RESOURCE_EXHAUSTED above 128 MiB.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view text);

// Adds what tokenizer_config.json says (special tokens, add_bos_token, chat template,
// model_max_length) to `spec`. A special token the vocabulary lacks is INVALID_ARGUMENT.
absl::Status ApplyTokenizerConfigJson(absl::string_view text, TokenizerSpec* spec);

// The text of a tokenizer.json that PyPI `tokenizers` loads and that gives the same ids.
std::string WriteTokenizerJson(const TokenizerSpec& spec);

// The matching tokenizer_config.json, for Transformers' PreTrainedTokenizerFast.
std::string WriteTokenizerConfigJson(const TokenizerSpec& spec);

// Checks the cross-references of a spec made by hand or from GGUF, as ParseTokenizerJson does.
absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_H_
