// The JSON of a tokenizer.json, read once and strictly: the two big tables as vectors, the rest as
// a tree. Private to this folder.
#ifndef QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_DOCUMENT_H_
#define QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_DOCUMENT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

struct TokenizerJsonDocument {
  nlohmann::json root;  // without model.vocab and model.merges
  bool has_vocabulary = false;
  bool vocabulary_is_list = false;  // Unigram's [[token, score], ...]
  std::vector<VocabularyEntry> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
};

// `what` names the file in messages. With `tables` the vocabulary and merges are taken out.
absl::StatusOr<TokenizerJsonDocument> ReadTokenizerDocument(absl::string_view text,
                                                            absl::string_view what, bool tables);

// A name from a file, fit for a message: escaped and cut to 200 bytes.
std::string Quoted(absl::string_view name);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_DOCUMENT_H_
