// A set of byte strings with values, for longest-match look-ups at a position of a text.
#ifndef QUANTD_MODELS_TOKENIZERS_BYTE_TRIE_H_
#define QUANTD_MODELS_TOKENIZERS_BYTE_TRIE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace quantd {

class ByteTrie {
 public:
  static constexpr int32_t kNone = -1;

  ByteTrie();

  // Replaces the value of a key that is there. `key` is not empty, `value` not negative.
  void Insert(absl::string_view key, int32_t value);
  bool empty() const { return values_.size() == 1; }

  // Whether any key starts with this byte.
  bool Starts(uint8_t byte) const { return first_[byte] != 0; }

  struct Match {
    size_t length = 0;
    int32_t value = kNone;
    size_t steps = 0;  // bytes looked at
  };
  // The longest key that `text` starts with.
  Match Longest(absl::string_view text) const;

  // Calls found(length, value) for every key that `text` starts with, shortest first; returns the
  // bytes looked at.
  template <typename Found>
  size_t ForEachPrefix(absl::string_view text, Found found) const {
    uint32_t node = 0;
    size_t i = 0;
    while (i < text.size()) {
      node = Child(node, static_cast<uint8_t>(text[i++]));
      if (node == 0) break;
      if (values_[node] != kNone) found(i, values_[node]);
    }
    return i;
  }

 private:
  // The child, or 0 (the root is nobody's child).
  uint32_t Child(uint32_t node, uint8_t byte) const {
    if (node == 0) return first_[byte];
    const auto it = edges_.find(uint64_t{node} << 8 | byte);
    return it == edges_.end() ? 0 : it->second;
  }

  std::array<uint32_t, 256> first_;  // children of the root
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> values_;  // by node
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_BYTE_TRIE_H_
