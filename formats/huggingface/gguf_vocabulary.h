// The tokenizer.ggml.* keys of a GGUF file <-> TokenizerSpec, on plain data: whoever reads or
// writes the container copies the arrays over. Key meanings: gguf specification, checked against
// what llama.cpp's converter writes; merges from scores as Transformers' convert_slow_tokenizer
// does.
#ifndef QUANTD_FORMATS_HUGGINGFACE_GGUF_VOCABULARY_H_
#define QUANTD_FORMATS_HUGGINGFACE_GGUF_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

// Values of tokenizer.ggml.token_type.
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct GgufVocabulary {
  std::string model;                 // tokenizer.ggml.model: gpt2, llama or bert
  std::string pre;                   // tokenizer.ggml.pre; may be empty
  std::vector<std::string> tokens;   // tokenizer.ggml.tokens
  std::vector<float> scores;         // empty, or one per token; llama only
  std::vector<int32_t> token_types;  // empty (all normal), or one per token
  std::vector<std::string> merges;   // "left right"; gpt2 only
  std::optional<int64_t> bos_id, eos_id, unk_id, pad_id;
  std::optional<int64_t> sep_id;  // tokenizer.ggml.seperator_token_id (so spelled); bert
  std::optional<int64_t> cls_id;  // tokenizer.ggml.cls_token_id; bert files may only have bos_id
  std::optional<int64_t> mask_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::string chat_template;  // tokenizer.chat_template
};

// INVALID_ARGUMENT when arrays disagree, a token is invalid UTF-8, repeated or too long, a merge or
// a special id names nothing; UNIMPLEMENTED for a tokenizer model or pre-tokenizer not known here.
absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(const GgufVocabulary& vocabulary);

// The reverse. `rows` is the number of embedding rows: ids without a token up to it become
// "[PAD{id}]" of type unused; 0 means as many as there are tokens. UNIMPLEMENTED when GGUF has no
// name for the tokenizer's way of splitting.
absl::StatusOr<GgufVocabulary> GgufVocabularyFromSpec(const TokenizerSpec& spec, int64_t rows);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_GGUF_VOCABULARY_H_
