// Importance matrices by measurement: the squared inputs of every linear layer while the model
// reads a text. Source: tools/imatrix of llama.cpp (ggml 0.25.3).
#ifndef QUANTD_MODELS_IMPORTANCE_H_
#define QUANTD_MODELS_IMPORTANCE_H_

#include <functional>
#include <memory>

#include "models/model.h"
#include "quantizers/codecs/gguf/importance_matrix.h"

namespace quantd {

struct ImportanceOptions {
  int32_t chunk_tokens = 512;       // each chunk of the text is a context of its own
  uint64_t memory_limit_bytes = 0;  // for the model that is loaded to measure; 0: none
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> on_progress;  // chunks
};

// Loads the model in float32 on the CPU and runs `text` through it, by whole chunks (all of it, if
// it is shorter than one; one line at a time for encoders). Entries are those of llama-imatrix: the
// matrices of the blocks. Does not depend on the number of threads. INVALID_ARGUMENT for a text
// without tokens, FAILED_PRECONDITION for a model without tokenizer.
absl::StatusOr<ImportanceMatrix> MeasureImportance(std::unique_ptr<ModelSource> source,
                                                   absl::string_view text,
                                                   const ImportanceOptions& options);

// What MeasureImportance would give entries for, all columns equally important: stands in for a
// measurement where only names and sizes matter.
ImportanceMatrix UniformImportance(const ModelSource& source);

}  // namespace quantd

#endif  // QUANTD_MODELS_IMPORTANCE_H_
