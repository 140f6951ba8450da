#include "models/tokenizers/pre_tokenizer.h"

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/tokenizers/byte_alphabet.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

using Kind = PreTokenizerStep::Kind;
using Word = WordList::Word;

// A stretch of a word, and whether the pattern matched it.
struct Span {
  size_t begin, end;
  bool matched;
};

// Matches and the gaps between them cover the text.
void AddMatch(size_t begin, size_t end, std::vector<Span>* spans) {
  const size_t last = spans->empty() ? 0 : spans->back().end;
  if (begin < last || end < begin) return;  // \K-like oddities
  if (begin > last) spans->push_back({last, begin, false});
  spans->push_back({begin, end, true});
}

void AddRest(size_t size, std::vector<Span>* spans) {
  const size_t last = spans->empty() ? 0 : spans->back().end;
  if (last < size) spans->push_back({last, size, false});
}

// Every matching character is a match of its own.
template <typename Predicate>
void MatchCharacters(absl::string_view text, Predicate predicate, std::vector<Span>* spans) {
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (predicate(NextCharacter(text, &i))) AddMatch(begin, i, spans);
  }
  AddRest(text.size(), spans);
}

// \w+|[^\w\s]+
void MatchWords(absl::string_view text, std::vector<Span>* spans) {
  enum { kSpace, kWord, kOther } run = kSpace;
  size_t run_begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = NextCharacter(text, &i);
    const auto now = IsWordCharacter(c) ? kWord : IsWhiteSpace(c) ? kSpace : kOther;
    if (now == run) continue;
    if (run != kSpace) AddMatch(run_begin, begin, spans);
    run = now;
    run_begin = begin;
  }
  if (run != kSpace) AddMatch(run_begin, text.size(), spans);
  AddRest(text.size(), spans);
}

std::vector<Span> MergeWithNext(const std::vector<Span>& spans) {
  std::vector<Span> merged;
  bool matched_behind = false;
  for (size_t i = spans.size(); i-- > 0;) {
    if (spans[i].matched && !matched_behind && !merged.empty()) {
      merged.back().begin = spans[i].begin;
    } else {
      merged.push_back(spans[i]);
    }
    matched_behind = spans[i].matched;
  }
  return {merged.rbegin(), merged.rend()};
}

// What becomes of matches and gaps; `spans` cover the word.
std::vector<Span> ApplyBehavior(SplitBehavior behavior, std::vector<Span> spans) {
  std::vector<Span> out;
  bool matched_before = false;
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return spans;
    case SplitBehavior::kRemoved:
      for (const Span& span : spans) {
        if (!span.matched) out.push_back(span);
      }
      return out;
    case SplitBehavior::kMergedWithPrevious:
      for (const Span& span : spans) {
        if (span.matched && !matched_before && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        matched_before = span.matched;
      }
      return out;
    case SplitBehavior::kMergedWithNext:
      return MergeWithNext(spans);
    case SplitBehavior::kContiguous:
      for (const Span& span : spans) {
        if (!out.empty() && span.matched == matched_before) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        matched_before = span.matched;
      }
      return out;
  }
  return spans;
}

void AddWords(const Word& word, const std::vector<Span>& spans, std::vector<Word>* words) {
  for (const Span& span : spans) {
    if (span.begin == span.end) continue;
    words->push_back(
        {word.text.substr(span.begin, span.end - span.begin), word.at_start && span.begin == 0});
  }
}

// Spans of one word under a step that only splits.
absl::StatusOr<std::vector<Span>> SplitWord(const PreTokenizerStep& step,
                                            const std::optional<SplitPattern>& pattern,
                                            absl::string_view text, WorkBudget* budget) {
  std::vector<Span> spans;
  SplitBehavior behavior = step.behavior;
  bool invert = false;
  switch (step.kind) {
    case Kind::kSplit:
    case Kind::kByteLevel:
      RETURN_IF_ERROR(pattern->ForEachMatch(
          text, budget, [&](size_t begin, size_t end) { AddMatch(begin, end, &spans); }));
      AddRest(text.size(), &spans);
      invert = step.kind == Kind::kSplit && step.invert;
      if (step.kind == Kind::kByteLevel) behavior = SplitBehavior::kIsolated;
      break;
    case Kind::kDigits:
      MatchCharacters(text, IsNumber, &spans);
      behavior = step.individual_digits ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
      break;
    case Kind::kPunctuation:
      MatchCharacters(text, IsPunctuation, &spans);
      break;
    case Kind::kWhitespace:
      MatchWords(text, &spans);
      invert = true;
      behavior = SplitBehavior::kRemoved;
      break;
    case Kind::kWhitespaceSplit:
      MatchCharacters(text, IsWhiteSpace, &spans);
      behavior = SplitBehavior::kRemoved;
      break;
    case Kind::kMetaspace:
    case Kind::kCharDelimiterSplit: {
      size_t i = 0;
      const char32_t wanted = NextCharacter(step.replacement, &i);
      MatchCharacters(
          text, [&](char32_t c) { return c == wanted; }, &spans);
      behavior =
          step.kind == Kind::kMetaspace ? SplitBehavior::kMergedWithNext : SplitBehavior::kRemoved;
      break;
    }
    case Kind::kBert:
      break;  // two passes, see SplitForBert
  }
  if (invert) {
    for (Span& span : spans) span.matched = !span.matched;
  }
  return ApplyBehavior(behavior, std::move(spans));
}

// White space goes, punctuation stands alone.
void SplitForBert(const Word& word, std::vector<Word>* words) {
  const absl::string_view text = word.text;
  size_t begin = 0;
  const auto flush = [&](size_t end) {
    if (begin < end)
      words->push_back({text.substr(begin, end - begin), word.at_start && begin == 0});
  };
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = NextCharacter(text, &i);
    const bool space = IsWhiteSpace(c);
    if (!space && !IsPunctuation(c)) continue;
    flush(at);
    begin = at;
    if (!space) flush(i);
    begin = i;
  }
  flush(text.size());
}

// The word with spaces made visible and a prefix as the scheme says.
std::string AddMetaspace(const PreTokenizerStep& step, const Word& word) {
  std::string out;
  for (const char c : word.text) {
    if (c == ' ') {
      out += step.replacement;
    } else {
      out += c;
    }
  }
  const bool wanted = step.prepend_scheme == PrependScheme::kAlways ||
                      (step.prepend_scheme == PrependScheme::kFirst && word.at_start);
  if (wanted && !absl::StartsWith(out, step.replacement)) out.insert(0, step.replacement);
  return out;
}

// Rewrites the words by `rewrite(word, out)`, which appends to one buffer.
template <typename Rewrite>
void RewriteWords(Rewrite rewrite, WordList* list) {
  std::string& buffer = list->storage.emplace_back();
  std::vector<size_t> ends;
  ends.reserve(list->words.size());
  for (const Word& word : list->words) {
    rewrite(word, &buffer);
    ends.push_back(buffer.size());
  }
  size_t begin = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    list->words[i].text = absl::string_view(buffer).substr(begin, ends[i] - begin);
    begin = ends[i];
  }
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::vector<PreTokenizerStep>& steps) {
  PreTokenizer pre_tokenizer;
  for (const PreTokenizerStep& spec : steps) {
    Step step{spec, std::nullopt};
    if (spec.kind == Kind::kSplit) {
      ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile(spec.pattern));
    } else if (spec.kind == Kind::kByteLevel && spec.use_regex) {
      ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile({true, kGpt2Pattern}));
    }
    pre_tokenizer.steps_.push_back(std::move(step));
  }
  return pre_tokenizer;
}

absl::Status PreTokenizer::Apply(WordList* list, WorkBudget* budget) const {
  for (const Step& step : steps_) {
    const PreTokenizerStep& spec = step.spec;
    if (spec.kind == Kind::kMetaspace) {
      RewriteWords([&](const Word& word, std::string* out) { *out += AddMetaspace(spec, word); },
                   list);
    } else if (spec.kind == Kind::kByteLevel && spec.add_prefix_space) {
      RewriteWords(
          [](const Word& word, std::string* out) {
            absl::StrAppend(out, absl::StartsWith(word.text, " ") ? "" : " ", word.text);
          },
          list);
    }
    const bool splits = (spec.kind != Kind::kMetaspace || spec.split) &&
                        (spec.kind != Kind::kByteLevel || spec.use_regex);
    if (splits) {
      std::vector<Word> words;
      words.reserve(list->words.size());
      for (const Word& word : list->words) {
        RETURN_IF_ERROR(budget->Spend(1 + static_cast<uint32_t>(word.text.size() / 16)));
        if (spec.kind == Kind::kBert) {
          SplitForBert(word, &words);
          continue;
        }
        ASSIGN_OR_RETURN(const std::vector<Span> spans,
                         SplitWord(spec, step.pattern, word.text, budget));
        AddWords(word, spans, &words);
      }
      list->words = std::move(words);
    }
    if (spec.kind == Kind::kByteLevel) {
      RewriteWords([](const Word& word, std::string* out) { AppendByteAlphabet(word.text, out); },
                   list);
    }
    if (!list->storage.empty()) RETURN_IF_ERROR(budget->CheckSize(list->storage.back().size()));
  }
  return absl::OkStatus();
}

}  // namespace quantd
