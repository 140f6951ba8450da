// The token sequences that a calibration runs on: cut from a text, or written by the model itself.
#ifndef QUANTD_MODELS_CALIBRATION_CALIBRATION_SET_H_
#define QUANTD_MODELS_CALIBRATION_CALIBRATION_SET_H_

#include <functional>
#include <string>
#include <vector>

#include "formats/calibration_text.h"
#include "quantizers/calibration_data.h"
#include "quantizers/model_source.h"

namespace quantd {

struct CalibrationSet {
  TokenSequences sequences;
  std::vector<std::string> warnings;  // fewer sequences than wanted, a context that is too short
};

// Tokens that a sequence may have: the context, and the window of attention where there is one,
// within which sliding and full attention are the same.
int64_t LongestSequence(const ModelConfig& config);

// `spec` with the sequences' length cut to the model's context; a warning says so.
CalibrationSpec FitToModel(const ModelSource& source, CalibrationSpec spec,
                           std::vector<std::string>& warnings);

// At most spec.nsamples sequences. Plain text: windows of spec.seqlen tokens, evenly spread over
// the text and without overlap; for encoders its lines. Records: one sequence each, cut to
// spec.seqlen; those of ten tokens or fewer are left out, as GPTQModel does. INVALID_ARGUMENT for a
// text shorter than one window; FAILED_PRECONDITION for a model without tokenizer.
absl::StatusOr<CalibrationSet> CutCalibrationText(const ModelSource& source,
                                                  const CalibrationText& text,
                                                  const CalibrationSpec& spec);

struct SelfCalibrationOptions {
  uint64_t seed = 0;
  uint64_t memory_limit_bytes = 0;  // for the model, which is loaded whole to write; 0: none
  std::function<bool()> stopped;
};

// spec.nsamples sequences of spec.seqlen tokens that the model samples from its own distribution at
// temperature 1, each after a first token drawn at random, as LLM-QAT (arXiv:2305.17888) does;
// encoders, which cannot write, get tokens drawn at random.
absl::StatusOr<TokenSequences> WriteOwnText(std::unique_ptr<ModelSource> source,
                                            const CalibrationSpec& spec,
                                            const SelfCalibrationOptions& options);

}  // namespace quantd

#endif  // QUANTD_MODELS_CALIBRATION_CALIBRATION_SET_H_
