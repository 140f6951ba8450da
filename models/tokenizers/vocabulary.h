// Tokens and ids of a model, both ways.
#ifndef QUANTD_MODELS_TOKENIZERS_VOCABULARY_H_
#define QUANTD_MODELS_TOKENIZERS_VOCABULARY_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

// Immutable. `entries` have passed ValidateTokenizerSpec, so ids are unique and not sparse.
class Vocabulary {
 public:
  explicit Vocabulary(const std::vector<VocabularyEntry>& entries) {
    int32_t end = 0;
    for (const VocabularyEntry& entry : entries) end = std::max(end, entry.id + 1);
    tokens_.resize(end);
    present_.resize(end, false);
    ids_.reserve(entries.size());
    for (const VocabularyEntry& entry : entries) {
      tokens_[entry.id] = entry.token;
      present_[entry.id] = true;
      ids_.insert_or_assign(tokens_[entry.id], entry.id);
    }
  }
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  // -1 when there is none.
  int32_t Find(absl::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }

  // One past the largest id.
  int32_t end_id() const { return static_cast<int32_t>(tokens_.size()); }
  bool Has(int32_t id) const { return id >= 0 && id < end_id() && present_[id]; }
  const std::string& Token(int32_t id) const { return tokens_[id]; }

 private:
  std::vector<std::string> tokens_;  // by id; never resized again: ids_ points into it
  std::vector<bool> present_;
  absl::flat_hash_map<absl::string_view, int32_t> ids_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_VOCABULARY_H_
