#include "models/calibration/calibration_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/model_text.h"

namespace quantd {
namespace {

constexpr size_t kTooShort = 10;  // tokens of a record that is left out

// `count` of `windows` windows, evenly spread.
TokenSequences Windows(const std::vector<int32_t>& tokens, size_t length, size_t wanted) {
  const size_t windows = tokens.size() / length;
  const size_t count = std::min(windows, wanted);
  TokenSequences sequences;
  for (size_t i = 0; i < count; ++i) {
    const auto begin = tokens.begin() + static_cast<ptrdiff_t>(i * windows / count * length);
    sequences.emplace_back(begin, begin + static_cast<ptrdiff_t>(length));
  }
  return sequences;
}

absl::StatusOr<TokenSequences> Samples(const Tokenizer& tokenizer,
                                       const std::vector<std::string>& texts, size_t length,
                                       size_t wanted, size_t too_short) {
  TokenSequences sequences;
  for (const std::string& text : texts) {
    if (sequences.size() == wanted) break;
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.Encode(text));
    if (ids.size() <= too_short) continue;
    ids.resize(std::min(ids.size(), length));
    sequences.push_back(std::move(ids));
  }
  return sequences;
}

}  // namespace

int64_t LongestSequence(const ModelConfig& config) {
  const int64_t context = config.max_position_embeddings;
  return config.sliding_window > 0 ? std::min(context, config.sliding_window) : context;
}

CalibrationSpec FitToModel(const ModelSource& source, CalibrationSpec spec,
                           std::vector<std::string>& warnings) {
  const int64_t context = LongestSequence(source.config());
  if (spec.seqlen > context) {
    // An encoder's texts are lines: its context is no surprise.
    if (!source.config().is_encoder()) {
      warnings.push_back(absl::StrCat("seqlen ", spec.seqlen,
                                      " is beyond the model's context: sequences of ", context,
                                      " tokens"));
    }
    spec.seqlen = context;
  }
  return spec;
}

absl::StatusOr<CalibrationSet> CutCalibrationText(const ModelSource& source,
                                                  const CalibrationText& text,
                                                  const CalibrationSpec& spec) {
  ASSIGN_OR_RETURN(const ModelText model, LoadModelText(source));
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        "the model has no tokenizer, so it cannot read a calibration text");
  }
  const auto length = static_cast<size_t>(spec.seqlen), wanted = static_cast<size_t>(spec.nsamples);
  CalibrationSet set;
  if (text.is_records || source.config().is_encoder()) {
    std::vector<std::string> samples = text.samples;
    if (!text.is_records) samples = absl::StrSplit(text.samples[0], '\n', absl::SkipWhitespace());
    ASSIGN_OR_RETURN(set.sequences, Samples(*model.tokenizer, samples, length, wanted,
                                            text.is_records ? kTooShort : 2));
    if (set.sequences.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the calibration text is too short: none of its ", samples.size(),
                       " samples has more than ", text.is_records ? kTooShort : 2, " tokens"));
    }
  } else {
    ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer->Encode(text.samples[0]));
    if (tokens.size() < length) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the calibration text is too short: it has ", tokens.size(),
          " tokens, one sequence takes ", length, "; give a longer text or a smaller seqlen"));
    }
    set.sequences = Windows(tokens, length, wanted);
  }
  if (set.sequences.size() < wanted) {
    set.warnings.push_back(absl::StrCat("the calibration text gives ", set.sequences.size(),
                                        " sequences of the ", wanted, " wanted"));
  }
  return set;
}

}  // namespace quantd
