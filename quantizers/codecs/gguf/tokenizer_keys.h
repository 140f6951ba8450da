// The tokenizer.ggml.* keys <-> Hugging Face tokenizer files.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_TOKENIZER_KEYS_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_TOKENIZER_KEYS_H_

#include <map>
#include <string>

#include "formats/gguf/gguf.h"
#include "formats/huggingface/gguf_vocabulary.h"
#include "formats/model_config.h"

namespace quantd {

// The tokenizer.ggml.* keys as plain data. INVALID_ARGUMENT names a key that is missing or of
// another type, UNIMPLEMENTED an unknown tokenizer model.
absl::StatusOr<GgufVocabulary> VocabularyFromGguf(const GgufMetadata& metadata);

namespace gguf {

// Adds the keys that tokenizer.json and tokenizer_config.json ask for; the model "none" without
// tokenizer.json.
absl::Status WriteTokenizerKeys(const ModelConfig& config,
                                const std::map<std::string, std::string>& side_files,
                                GgufMetadata& metadata);

// Adds tokenizer.json, tokenizer_config.json and special_tokens_map.json; nothing when the GGUF has
// no tokenizer.
absl::Status ReadTokenizerKeys(const GgufMetadata& metadata,
                               std::map<std::string, std::string>& side_files);

}  // namespace gguf
}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_TOKENIZER_KEYS_H_
