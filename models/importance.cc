#include "models/importance.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/input_observer.h"
#include "models/model_text.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

// Adds up squares in double precision, one set of sums per stack of matrices.
class SquareSums final : public InputObserver {
 public:
  void Observe(const std::vector<std::string>& modules, std::span<const float> rows,
               int64_t cols) override {
    Sums& sums = sums_[modules];
    sums.values.resize(static_cast<size_t>(cols));
    const auto count = static_cast<int64_t>(rows.size()) / cols;
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.data() + r * cols;
      for (int64_t c = 0; c < cols; ++c) sums.values[c] += static_cast<double>(row[c]) * row[c];
    }
    sums.count += count;
  }

  void AddTo(const ModelConfig& config, ImportanceMatrix& matrix) const {
    for (const auto& [modules, sums] : sums_) {
      for (const std::string& module : modules) {
        const auto name = GgufNameFor(config, absl::StrCat(module, ".weight"));
        if (!name) continue;
        matrix.Add(*name, std::vector<float>(sums.values.begin(), sums.values.end()), sums.count);
      }
    }
  }

 private:
  struct Sums {
    std::vector<double> values;
    int64_t count = 0;
  };
  std::map<std::vector<std::string>, Sums> sums_;
};

using Chunks = std::vector<std::vector<int32_t>>;

absl::StatusOr<Chunks> ChunksOf(const Model& model, absl::string_view text, int32_t length) {
  Chunks chunks;
  if (model.is_encoder()) {
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer()->Encode(line));
      ids.resize(std::min(ids.size(), static_cast<size_t>(model.context_length())));
      chunks.push_back(std::move(ids));
    }
    return chunks;
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, model.tokenizer()->Encode(text));
  ASSIGN_OR_RETURN(const std::optional<int32_t> bos, LeadingBos(*model.tokenizer()));
  const size_t size = std::min<size_t>(
      tokens.size(), static_cast<size_t>(std::min(length, model.context_length())));
  for (size_t first = 0; size > 0 && first + size <= tokens.size(); first += size) {
    chunks.emplace_back(tokens.begin() + first, tokens.begin() + first + size);
    if (bos) chunks.back()[0] = *bos;  // takes the place of the first token
  }
  return chunks;
}

absl::Status Run(Model& model, const std::vector<int32_t>& chunk) {
  if (model.is_encoder()) return model.Encode({chunk}, std::nullopt).status();
  // All positions pass through the layers; the logits of one are the least that can be asked for.
  const auto last = static_cast<int32_t>(chunk.size()) - 1;
  return model.VisitLogits(
      {chunk}, last, [](size_t, int32_t, std::span<const float>) { return absl::OkStatus(); });
}

}  // namespace

absl::StatusOr<ImportanceMatrix> MeasureImportance(std::unique_ptr<ModelSource> source,
                                                   absl::string_view text,
                                                   const ImportanceOptions& options) {
  SquareSums sums;
  LoadOptions load;
  load.compute = Compute::kExact;
  load.max_sequences = 1;
  load.memory_limit_bytes = options.memory_limit_bytes;
  load.observer = &sums;
  load.cancelled = options.cancelled;
  ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, Model::Load(std::move(source), load));
  if (model->tokenizer() == nullptr) {
    return absl::FailedPreconditionError(
        "the model has no tokenizer, so it cannot read a calibration text");
  }
  ASSIGN_OR_RETURN(const Chunks chunks, ChunksOf(*model, text, options.chunk_tokens));
  if (chunks.empty()) return absl::InvalidArgumentError("the calibration text has no tokens");
  const auto total = static_cast<int64_t>(chunks.size());
  for (int64_t i = 0; i < total; ++i) {
    if (options.cancelled && options.cancelled()) return absl::CancelledError("cancelled");
    RETURN_IF_ERROR(Run(*model, chunks[i]));
    if (options.on_progress) options.on_progress(i + 1, total);
  }
  ImportanceMatrix matrix;
  sums.AddTo(model->config(), matrix);
  matrix.chunks = total;
  matrix.chunk_size = static_cast<int64_t>(chunks.front().size());
  return matrix;
}

ImportanceMatrix UniformImportance(const ModelSource& source) {
  ImportanceMatrix matrix;
  for (const SourceParameter& parameter : source.parameters()) {
    if (!IsWeightMatrix(parameter)) continue;
    const auto name = GgufNameFor(source.config(), parameter.name);
    if (!name || !absl::StartsWith(*name, "blk.")) continue;
    matrix.Add(*name, std::vector<float>(static_cast<size_t>(parameter.shape.back()), 1.0f), 1);
  }
  return matrix;
}

}  // namespace quantd
