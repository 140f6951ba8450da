// Byte-pair encoding: Sennrich et al. 2016 (arXiv:1508.07909), with the details of PyPI
// `tokenizers` 0.23 models/bpe. Merges go by rank, then position, from a heap over a linked list of
// symbols: O(n log n) for a word of n characters.
#include <algorithm>
#include <array>
#include <mutex>
#include <queue>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/status.h"
#include "models/tokenizers/segmentation.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

// Words seen before, with their ids. Sharded, so that threads seldom meet; full shards stay as they
// are, because the first words of a text are the frequent ones.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 128;

  bool Find(absl::string_view word, std::vector<int32_t>* ids) const {
    Shard& shard = ShardOf(word);
    const std::lock_guard lock(shard.mutex);
    const auto it = shard.words.find(word);
    if (it == shard.words.end()) return false;
    ids->insert(ids->end(), it->second.begin(), it->second.end());
    return true;
  }

  void Add(absl::string_view word, const int32_t* ids, size_t count) const {
    Shard& shard = ShardOf(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.words.size() < kWordsPerShard) {
      shard.words.emplace(word, std::vector<int32_t>(ids, ids + count));
    }
  }

 private:
  static constexpr size_t kShards = 16;
  static constexpr size_t kWordsPerShard = 2048;
  struct Shard {
    std::mutex mutex;
    absl::flat_hash_map<std::string, std::vector<int32_t>> words;
  };

  Shard& ShardOf(absl::string_view word) const {
    return shards_[absl::Hash<absl::string_view>{}(word) / 64 % kShards];
  }

  mutable std::array<Shard, kShards> shards_;
};

class Bpe : public Segmentation {
 public:
  Bpe(const TokenizationModelSpec& spec, const Vocabulary& vocabulary);

  absl::Status Segment(absl::string_view word, WorkBudget* budget,
                       std::vector<int32_t>* ids) const override;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;  // of the merged token
  };
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // -1: none
    bool gone;
  };

  static uint64_t PairKey(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  int32_t FindCharacter(absl::string_view word, size_t begin, size_t end) const;
  absl::Status SplitCharacters(absl::string_view word, std::vector<Symbol>* symbols) const;
  absl::Status MergeAll(WorkBudget* budget, std::vector<Symbol>* symbols) const;

  const Vocabulary& vocabulary_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  std::string prefix_, suffix_;
  std::vector<int32_t> byte_ids_;  // empty without byte fallback
  bool has_unk_;
  int32_t unk_id_ = -1;
  bool fuse_unk_, ignore_merges_;
  WordCache cache_;
};

Bpe::Bpe(const TokenizationModelSpec& spec, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary),
      prefix_(spec.continuing_subword_prefix),
      suffix_(spec.end_of_word_suffix),
      has_unk_(spec.unk_token.has_value()),
      fuse_unk_(spec.fuse_unk),
      ignore_merges_(spec.ignore_merges) {
  if (has_unk_) unk_id_ = vocabulary.Find(*spec.unk_token);
  if (spec.byte_fallback) byte_ids_ = ByteTokenIds(vocabulary);
  merges_.reserve(spec.merges.size());
  std::string merged;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    merged.assign(left);
    if (right.size() >= prefix_.size()) merged.append(right, prefix_.size());
    const uint64_t key = PairKey(vocabulary.Find(left), vocabulary.Find(right));
    merges_.insert_or_assign(key, Merge{static_cast<uint32_t>(rank), vocabulary.Find(merged)});
  }
}

int32_t Bpe::FindCharacter(absl::string_view word, size_t begin, size_t end) const {
  const absl::string_view character = word.substr(begin, end - begin);
  const bool prefixed = begin > 0 && !prefix_.empty();
  const bool suffixed = end == word.size() && !suffix_.empty();
  if (!prefixed && !suffixed) return vocabulary_.Find(character);
  return vocabulary_.Find(
      absl::StrCat(prefixed ? prefix_ : "", character, suffixed ? suffix_ : ""));
}

absl::Status Bpe::SplitCharacters(absl::string_view word, std::vector<Symbol>* symbols) const {
  const auto add = [symbols](int32_t id) {
    const int32_t i = static_cast<int32_t>(symbols->size());
    if (i > 0) symbols->back().next = i;
    symbols->push_back({id, i - 1, -1, false});
  };
  // Unknown characters wait, so that a run of them can become one token.
  bool unknown = false;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    NextCharacter(word, &i);
    const int32_t id = FindCharacter(word, begin, i);
    if (id >= 0) {
      if (unknown) add(unk_id_);
      unknown = false;
      add(id);
      continue;
    }
    const auto byte_id = [&](size_t k) { return byte_ids_[static_cast<uint8_t>(word[k])]; };
    bool all_bytes = !byte_ids_.empty();
    for (size_t k = begin; all_bytes && k < i; ++k) all_bytes = byte_id(k) >= 0;
    if (all_bytes) {
      for (size_t k = begin; k < i; ++k) add(byte_id(k));
      continue;
    }
    if (!has_unk_) continue;  // upstream drops the character
    if (unk_id_ < 0) return NoUnknownToken(word);
    if (unknown && !fuse_unk_) add(unk_id_);
    unknown = true;
  }
  if (unknown) add(unk_id_);
  return absl::OkStatus();
}

absl::Status Bpe::MergeAll(WorkBudget* budget, std::vector<Symbol>* symbols) const {
  struct Candidate {
    uint32_t rank;
    int32_t left;                                   // index of the left symbol
    int32_t id;                                     // of the merged token
    bool operator<(const Candidate& other) const {  // the heap gives the largest first
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  std::vector<Symbol>& all = *symbols;
  std::priority_queue<Candidate> heap;
  const auto offer = [&](int32_t left) {
    if (left < 0 || all[left].next < 0) return;
    const auto it = merges_.find(PairKey(all[left].id, all[all[left].next].id));
    if (it != merges_.end()) heap.push({it->second.rank, left, it->second.id});
  };
  for (size_t i = 0; i + 1 < all.size(); ++i) offer(static_cast<int32_t>(i));
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    RETURN_IF_ERROR(budget->Spend());
    Symbol& left = all[best.left];
    if (left.gone || left.next < 0) continue;
    Symbol& right = all[left.next];
    const auto it = merges_.find(PairKey(left.id, right.id));
    if (it == merges_.end() || it->second.id != best.id) continue;  // overtaken
    left.id = best.id;
    left.next = right.next;
    right.gone = true;
    if (left.next >= 0) all[left.next].previous = best.left;
    offer(left.previous);
    offer(best.left);
  }
  return absl::OkStatus();
}

absl::Status Bpe::Segment(absl::string_view word, WorkBudget* budget,
                          std::vector<int32_t>* ids) const {
  const bool cached = word.size() <= WordCache::kMaxWordBytes;
  if (cached && cache_.Find(word, ids)) return absl::OkStatus();
  const size_t before = ids->size();
  const int32_t whole = ignore_merges_ ? vocabulary_.Find(word) : -1;
  if (whole >= 0) {
    ids->push_back(whole);
  } else {
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    RETURN_IF_ERROR(SplitCharacters(word, &symbols));
    RETURN_IF_ERROR(MergeAll(budget, &symbols));
    for (const Symbol& symbol : symbols) {
      if (!symbol.gone) ids->push_back(symbol.id);
    }
  }
  if (cached) cache_.Add(word, ids->data() + before, ids->size() - before);
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<const Segmentation> MakeBpe(const TokenizationModelSpec& spec,
                                            const Vocabulary& vocabulary) {
  return std::make_unique<Bpe>(spec, vocabulary);
}

absl::Status NoUnknownToken(absl::string_view word) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer: '", absl::CHexEscape(word.substr(0, 64)),
                   "' has no token, and the vocabulary no unknown token to stand for it"));
}

std::vector<int32_t> ByteTokenIds(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256);
  for (int byte = 0; byte < 256; ++byte) {
    ids[byte] = vocabulary.Find(absl::StrFormat("<0x%02X>", byte));
  }
  return ids;
}

}  // namespace quantd
