// Unigram language model: the most probable segmentation by Viterbi search (Kudo 2018,
// arXiv:1804.10959), with the unknown penalty and tie rules of PyPI `tokenizers` 0.23.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "core/status.h"
#include "models/tokenizers/byte_trie.h"
#include "models/tokenizers/segmentation.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

constexpr double kUnknownPenalty = 10.0;

class Unigram : public Segmentation {
 public:
  Unigram(const TokenizationModelSpec& spec, const Vocabulary& vocabulary)
      : unk_id_(spec.unk_id.value_or(-1)), scores_(vocabulary.end_id(), 0) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const VocabularyEntry& entry : spec.vocabulary) {
      scores_[entry.id] = entry.score;
      lowest = std::min<double>(lowest, entry.score);
      if (!entry.token.empty()) pieces_.Insert(entry.token, entry.id);
    }
    unknown_score_ = lowest - kUnknownPenalty;
    if (spec.byte_fallback) byte_ids_ = ByteTokenIds(vocabulary);
  }

  absl::Status Segment(absl::string_view word, WorkBudget* budget,
                       std::vector<int32_t>* ids) const override {
    std::vector<Node> best(word.size() + 1);
    RETURN_IF_ERROR(Search(word, budget, &best));
    std::vector<std::pair<size_t, size_t>> pieces;  // from the end
    for (size_t end = word.size(); end > 0; end = best[end].begin) {
      const size_t begin = best[end].begin;
      // A run of unknown characters is one piece.
      const bool unknown = best[end].id == kUnknown;
      if (unknown && !pieces.empty() && pieces.back().first == end &&
          best[pieces.back().second].id == kUnknown) {
        pieces.back().first = begin;
      } else {
        pieces.emplace_back(begin, end);
      }
    }
    for (auto it = pieces.rbegin(); it != pieces.rend(); ++it) {
      RETURN_IF_ERROR(
          Emit(word.substr(it->first, it->second - it->first), best[it->second].id, ids));
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int32_t kUnreached = -2;
  static constexpr int32_t kUnknown = -1;
  struct Node {  // the best path that ends here
    double score = 0;
    size_t begin = 0;
    int32_t id = kUnreached;  // of its last piece
  };

  absl::Status Search(absl::string_view word, WorkBudget* budget, std::vector<Node>* best) const {
    for (size_t begin = 0; begin < word.size();) {
      size_t next = begin;
      NextCharacter(word, &next);
      const double base = (*best)[begin].score;
      const auto offer = [&](size_t end, double score, int32_t id) {
        Node& node = (*best)[end];
        if (node.id == kUnreached || score > node.score) node = {score, begin, id};
      };
      bool single = false;
      const size_t steps =
          pieces_.ForEachPrefix(word.substr(begin), [&](size_t length, int32_t id) {
            offer(begin + length, base + scores_[id], id);
            single = single || begin + length == next;
          });
      if (!single) offer(next, base + unknown_score_, kUnknown);
      RETURN_IF_ERROR(budget->Spend(1 + static_cast<uint32_t>(steps / 4)));
      begin = next;
    }
    return absl::OkStatus();
  }

  absl::Status Emit(absl::string_view piece, int32_t id, std::vector<int32_t>* ids) const {
    if (id != kUnknown) {
      ids->push_back(id);
      return absl::OkStatus();
    }
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
    if (!byte_ids_.empty() &&
        std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_id(c) >= 0; })) {
      for (const char c : piece) ids->push_back(byte_id(c));
      return absl::OkStatus();
    }
    if (unk_id_ < 0) return NoUnknownToken(piece);
    ids->push_back(unk_id_);
    return absl::OkStatus();
  }

  int32_t unk_id_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  ByteTrie pieces_;
  std::vector<int32_t> byte_ids_;  // empty without byte fallback
};

}  // namespace

std::unique_ptr<const Segmentation> MakeUnigram(const TokenizationModelSpec& spec,
                                                const Vocabulary& vocabulary) {
  return std::make_unique<Unigram>(spec, vocabulary);
}

}  // namespace quantd
