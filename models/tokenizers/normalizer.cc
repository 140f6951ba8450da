#include "models/tokenizers/normalizer.h"

#include <utility>

#include "core/status.h"
#include "models/tokenizers/byte_alphabet.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

using Kind = NormalizerStep::Kind;

std::string Lowercase(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) AppendLowercase(NextCharacter(text, &i), &out);
  return out;
}

std::string StripMarks(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (!IsMark(NextCharacter(text, &i))) out.append(text.data() + begin, i - begin);
  }
  return out;
}

std::string StripSpace(absl::string_view text, bool left, bool right) {
  size_t begin = text.size(), end = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    if (IsWhiteSpace(NextCharacter(text, &i))) continue;
    if (begin == text.size()) begin = at;
    end = i;
  }
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? std::string(text.substr(begin, end - begin)) : std::string();
}

absl::StatusOr<std::string> ReplaceAll(const SplitPattern& pattern, absl::string_view content,
                                       absl::string_view text, WorkBudget* budget) {
  std::string out;
  size_t last = 0;
  absl::Status size_status;
  RETURN_IF_ERROR(pattern.ForEachMatch(text, budget, [&](size_t begin, size_t end) {
    if (!size_status.ok() || begin < last || end < begin) return;
    out.append(text.data() + last, begin - last);
    out.append(content.data(), content.size());
    last = end;
    size_status = budget->CheckSize(out.size());
  }));
  RETURN_IF_ERROR(size_status);
  out.append(text.data() + last, text.size() - last);
  return out;
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::Create(const std::vector<NormalizerStep>& steps) {
  Normalizer normalizer;
  for (const NormalizerStep& spec : steps) {
    Step step{spec, std::nullopt};
    if (spec.kind == Kind::kReplace) {
      ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile(spec.pattern));
    }
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

absl::StatusOr<std::string> Normalizer::Apply(absl::string_view text, WorkBudget* budget) const {
  std::string out(text);
  for (const Step& step : steps_) {
    RETURN_IF_ERROR(budget->Spend(1 + static_cast<uint32_t>(out.size() / 16)));
    ASSIGN_OR_RETURN(out, ApplyStep(step, std::move(out), budget));
    RETURN_IF_ERROR(budget->CheckSize(out.size()));
  }
  return out;
}

absl::StatusOr<std::string> Normalizer::ApplyStep(const Step& step, std::string text,
                                                  WorkBudget* budget) {
  switch (step.spec.kind) {
    case Kind::kNfc:
      return Normalize(NormalForm::kNfc, text);
    case Kind::kNfd:
      return Normalize(NormalForm::kNfd, text);
    case Kind::kNfkc:
      return Normalize(NormalForm::kNfkc, text);
    case Kind::kNfkd:
      return Normalize(NormalForm::kNfkd, text);
    case Kind::kLowercase:
      return Lowercase(text);
    case Kind::kStrip:
      return StripSpace(text, step.spec.strip_left, step.spec.strip_right);
    case Kind::kStripAccents:
      return StripMarks(text);
    case Kind::kReplace:
      return ReplaceAll(*step.pattern, step.spec.content, text, budget);
    case Kind::kPrepend:
      return text.empty() ? std::move(text) : step.spec.content + text;
    case Kind::kBert:
      return NormalizeForBert(step.spec, text);
    case Kind::kByteLevel: {
      std::string out;
      AppendByteAlphabet(text, &out);
      return out;
    }
  }
  return text;
}

}  // namespace quantd
