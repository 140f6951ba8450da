#include "models/tokenizers/byte_trie.h"

namespace quantd {

ByteTrie::ByteTrie() : values_(1, kNone) { first_.fill(0); }

void ByteTrie::Insert(absl::string_view key, int32_t value) {
  uint32_t node = 0;
  for (const char c : key) {
    const uint8_t byte = static_cast<uint8_t>(c);
    uint32_t& child = node == 0 ? first_[byte] : edges_[uint64_t{node} << 8 | byte];
    if (child == 0) {
      child = static_cast<uint32_t>(values_.size());
      values_.push_back(kNone);
    }
    node = child;
  }
  values_[node] = value;
}

ByteTrie::Match ByteTrie::Longest(absl::string_view text) const {
  Match best;
  best.steps = ForEachPrefix(text, [&](size_t length, int32_t value) {
    best.length = length;
    best.value = value;
  });
  return best;
}

}  // namespace quantd
