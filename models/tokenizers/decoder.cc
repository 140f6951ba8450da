#include "models/tokenizers/decoder.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/status.h"
#include "models/tokenizers/byte_alphabet.h"

namespace quantd {
namespace {

using Kind = DecoderStep::Kind;

// English punctuation and contractions, drawn to the word before them.
std::string CleanUp(absl::string_view token) {
  static constexpr std::pair<const char*, const char*> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  std::string out(token);
  for (const auto& [from, to] : kRules) {
    if (out.find(from) != std::string::npos) absl::StrReplaceAll({{from, to}}, &out);
  }
  return out;
}

// "<0xE2>" -> the byte.
bool ParseByteToken(absl::string_view token, char* byte) {
  uint32_t value = 0;
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>' ||
      !absl::SimpleHexAtoi(token.substr(3, 2), &value)) {
    return false;
  }
  *byte = static_cast<char>(value);
  return true;
}

std::string DecodeMetaspace(const DecoderStep& step, absl::string_view token, bool first) {
  const bool drop = first && step.prepend_scheme != PrependScheme::kNever;
  return absl::StrReplaceAll(token, {{step.replacement, drop ? "" : " "}});
}

// Takes up to `start` characters in front and `stop` behind off, where they are `content`.
std::string StripCharacters(const DecoderStep& step, absl::string_view token) {
  const auto take = [&](bool front, size_t limit) {
    while (limit-- > 0 && !step.content.empty() &&
           (front ? absl::StartsWith(token, step.content) : absl::EndsWith(token, step.content))) {
      front ? token.remove_prefix(step.content.size()) : token.remove_suffix(step.content.size());
    }
  };
  take(true, step.start);
  take(false, step.stop);
  return std::string(token);
}

std::string ReplaceMatches(const SplitPattern& pattern, const std::string& content,
                           const std::string& token) {
  WorkBudget budget(token.size());
  std::string out;
  size_t last = 0;
  const absl::Status status = pattern.ForEachMatch(token, &budget, [&](size_t begin, size_t end) {
    if (begin < last || end < begin) return;
    out.append(token, last, begin - last);
    out += content;
    last = end;
  });
  if (!status.ok()) return token;
  out.append(token, last);
  return out;
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Create(const std::vector<DecoderStep>& steps) {
  Decoder decoder;
  decoder.spaced_ = steps.empty();
  bool fused = false;
  for (const DecoderStep& spec : steps) {
    if (spec.kind == Kind::kFuse) {
      fused = true;
    } else if (!fused) {
      Step step{spec, std::nullopt};
      if (spec.kind == Kind::kReplace) {
        ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile(spec.pattern));
      }
      decoder.steps_.push_back(std::move(step));
    } else if (spec.kind == Kind::kStrip && spec.stop == 0 && decoder.trim_content_.empty()) {
      decoder.trim_content_ = spec.content;
      decoder.trim_start_ = spec.start;
    } else {
      return absl::UnimplementedError(
          "tokenizer: decoder: after Fuse only one Strip, of the start, is supported");
    }
  }
  return decoder;
}

std::string Decoder::TokenBytes(absl::string_view token, bool first) const {
  if (spaced_) return first ? std::string(token) : absl::StrCat(" ", token);
  std::string out(token);
  for (const Step& step : steps_) out = ApplyStep(step, std::move(out), first);
  return out;
}

std::string Decoder::ApplyStep(const Step& step, std::string token, bool first) {
  const DecoderStep& spec = step.spec;
  switch (spec.kind) {
    case Kind::kByteLevel: {
      std::string bytes;
      return AppendAlphabetBytes(token, &bytes) ? bytes : token;
    }
    case Kind::kWordPiece: {
      if (!first) {
        const bool continues = !spec.prefix.empty() && absl::StartsWith(token, spec.prefix);
        token = continues ? token.substr(spec.prefix.size()) : " " + token;
      }
      return spec.cleanup ? CleanUp(token) : token;
    }
    case Kind::kMetaspace:
      return DecodeMetaspace(spec, token, first);
    case Kind::kByteFallback: {
      char byte = 0;
      return ParseByteToken(token, &byte) ? std::string(1, byte) : token;
    }
    case Kind::kStrip:
      return StripCharacters(spec, token);
    case Kind::kReplace:
      return ReplaceMatches(*step.pattern, spec.content, token);
    case Kind::kFuse:
      break;
  }
  return token;
}

}  // namespace quantd
