// WordPiece: greedy longest match first (Devlin et al. 2018, arXiv:1810.04805); and word-level
// look-up, its trivial relative.
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/tokenizers/byte_trie.h"
#include "models/tokenizers/segmentation.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

class WordPiece : public Segmentation {
 public:
  WordPiece(const TokenizationModelSpec& spec, const Vocabulary& vocabulary)
      : unk_id_(vocabulary.Find(spec.unk_token.value_or(""))),
        max_characters_(spec.max_input_chars_per_word) {
    const std::string& prefix = spec.continuing_subword_prefix;
    for (const VocabularyEntry& entry : spec.vocabulary) {
      if (entry.token.empty()) continue;
      first_.Insert(entry.token, entry.id);
      if (absl::StartsWith(entry.token, prefix) && entry.token.size() > prefix.size()) {
        following_.Insert(absl::string_view(entry.token).substr(prefix.size()), entry.id);
      }
    }
  }

  absl::Status Segment(absl::string_view word, WorkBudget* budget,
                       std::vector<int32_t>* ids) const override {
    const size_t before = ids->size();
    size_t characters = 0;
    for (size_t i = 0; i < word.size(); ++characters) NextCharacter(word, &i);
    absl::string_view rest = word;
    bool known = characters <= max_characters_;
    while (known && !rest.empty()) {
      const ByteTrie& trie = rest.size() == word.size() ? first_ : following_;
      const ByteTrie::Match match = trie.Longest(rest);
      RETURN_IF_ERROR(budget->Spend(1 + static_cast<uint32_t>(match.steps / 4)));
      known = match.value != ByteTrie::kNone;
      if (!known) break;
      ids->push_back(match.value);
      rest.remove_prefix(match.length);
    }
    if (known) return absl::OkStatus();
    if (unk_id_ < 0) return NoUnknownToken(word);
    ids->resize(before);
    ids->push_back(unk_id_);
    return absl::OkStatus();
  }

 private:
  ByteTrie first_, following_;
  int32_t unk_id_;
  size_t max_characters_;
};

class WordLevel : public Segmentation {
 public:
  WordLevel(const TokenizationModelSpec& spec, const Vocabulary& vocabulary)
      : vocabulary_(vocabulary), unk_id_(vocabulary.Find(spec.unk_token.value_or(""))) {}

  absl::Status Segment(absl::string_view word, WorkBudget* budget,
                       std::vector<int32_t>* ids) const override {
    RETURN_IF_ERROR(budget->Spend());
    int32_t id = vocabulary_.Find(word);
    if (id < 0) id = unk_id_;
    if (id < 0) return NoUnknownToken(word);
    ids->push_back(id);
    return absl::OkStatus();
  }

 private:
  const Vocabulary& vocabulary_;
  int32_t unk_id_;
};

}  // namespace

std::unique_ptr<const Segmentation> MakeWordPiece(const TokenizationModelSpec& spec,
                                                  const Vocabulary& vocabulary) {
  return std::make_unique<WordPiece>(spec, vocabulary);
}

std::unique_ptr<const Segmentation> MakeWordLevel(const TokenizationModelSpec& spec,
                                                  const Vocabulary& vocabulary) {
  return std::make_unique<WordLevel>(spec, vocabulary);
}

}  // namespace quantd
