#include "models/tokenizers/added_tokens.h"

#include <algorithm>

#include "core/status.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

// The character that ends at `end` (> 0).
char32_t CharacterBefore(absl::string_view text, size_t end, size_t* begin) {
  size_t i = end - 1;
  while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
  *begin = i;
  return NextCharacter(text, &i);
}

bool IsWholeWord(absl::string_view text, size_t begin, size_t end) {
  size_t unused = 0;
  if (begin > 0 && IsWordCharacter(CharacterBefore(text, begin, &unused))) return false;
  size_t i = end;
  return end == text.size() || !IsWordCharacter(NextCharacter(text, &i));
}

size_t SkipSpaceLeft(absl::string_view text, size_t begin, size_t floor) {
  while (begin > floor) {
    size_t previous = 0;
    if (!IsWhiteSpace(CharacterBefore(text, begin, &previous))) break;
    begin = previous;
  }
  return std::max(begin, floor);
}

size_t SkipSpaceRight(absl::string_view text, size_t end) {
  while (end < text.size()) {
    size_t next = end;
    if (!IsWhiteSpace(NextCharacter(text, &next))) break;
    end = next;
  }
  return end;
}

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Create(const std::vector<AddedTokenSpec>& tokens,
                                                const Normalizer& normalizer) {
  AddedTokens added;
  added.tokens_ = tokens;
  // One budget for all: a file may hold any number of them.
  size_t bytes = 0;
  for (const AddedTokenSpec& token : tokens) bytes += token.normalized ? token.content.size() : 0;
  WorkBudget budget(bytes);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const AddedTokenSpec& token = tokens[i];
    if (!token.normalized) {
      added.raw_.Insert(token.content, static_cast<int32_t>(i));
      continue;
    }
    ASSIGN_OR_RETURN(const std::string content, normalizer.Apply(token.content, &budget));
    // A token that normalization leaves nothing of can never be found.
    if (!content.empty()) added.normalized_.Insert(content, static_cast<int32_t>(i));
  }
  return added;
}

absl::StatusOr<std::vector<AddedTokens::Section>> AddedTokens::Split(absl::string_view text,
                                                                     bool normalized,
                                                                     bool parse_special,
                                                                     WorkBudget* budget) const {
  const ByteTrie& trie = normalized ? normalized_ : raw_;
  std::vector<Section> sections;
  size_t plain = 0;  // where the text not yet in a section begins
  const auto flush = [&](size_t end) {
    if (plain < end) sections.push_back({text.substr(plain, end - plain), -1});
  };
  for (size_t i = 0; i < text.size() && !trie.empty();) {
    if (!trie.Starts(static_cast<uint8_t>(text[i]))) {
      ++i;
      continue;
    }
    const ByteTrie::Match match = trie.Longest(text.substr(i));
    RETURN_IF_ERROR(budget->Spend(1 + static_cast<uint32_t>(match.steps / 4)));
    if (match.value == ByteTrie::kNone) {
      ++i;
      continue;
    }
    const AddedTokenSpec& token = tokens_[match.value];
    const size_t found_end = i + match.length;
    const bool skipped = (token.special && !parse_special) ||
                         (token.single_word && !IsWholeWord(text, i, found_end));
    if (!skipped) {
      // White space that a token before already took stays with it.
      const size_t begin = std::max(plain, token.lstrip ? SkipSpaceLeft(text, i, plain) : i);
      const size_t end = token.rstrip ? SkipSpaceRight(text, found_end) : found_end;
      flush(begin);
      sections.push_back({text.substr(begin, std::max(begin, end) - begin), token.id});
      plain = std::max(begin, end);
    }
    i = found_end;
  }
  flush(text.size());
  return sections;
}

}  // namespace quantd
