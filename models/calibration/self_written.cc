// Calibration text that the model writes itself.
#include <algorithm>
#include <utility>

#include "core/parallel.h"
#include "models/architectures/decoder.h"
#include "models/calibration/calibration_set.h"
#include "models/memory_plan.h"
#include "models/sampling/sampler.h"

namespace quantd {
namespace {

constexpr int64_t kTogether = 16;  // sequences that are written side by side

int32_t RandomToken(Pcg32& random, int64_t vocabulary) {
  return static_cast<int32_t>(random.NextUnit() * static_cast<double>(vocabulary));
}

TokenSequences RandomTokens(const ModelConfig& config, const CalibrationSpec& spec, uint64_t seed) {
  Pcg32 random(seed);
  TokenSequences sequences(static_cast<size_t>(spec.nsamples));
  for (std::vector<int32_t>& sequence : sequences) {
    for (int64_t i = 0; i < spec.seqlen; ++i) {
      sequence.push_back(RandomToken(random, config.vocab_size));
    }
  }
  return sequences;
}

// Always the same sequences in a batch, so that the same seed gives the same tokens.
class Writer {
 public:
  Writer(Backend& backend, Decoder& decoder, const SelfCalibrationOptions& options)
      : backend_(backend), decoder_(decoder), options_(options) {}

  absl::Status Write(int64_t first, int64_t count, int64_t length, TokenSequences& out) {
    const int64_t vocabulary = decoder_.vocab_size();
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<Sampler> samplers;
    std::vector<int32_t> ids, rows;
    for (int64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(auto cache,
                       backend_.CreateKvCache(decoder_.kv_shape(static_cast<int>(length))));
      caches.push_back(std::move(cache));
      const uint64_t seed = options_.seed * 1000003 + static_cast<uint64_t>(first + i);
      SamplingOptions sampling;
      sampling.temperature = 1.0f;
      sampling.seed = seed;
      samplers.emplace_back(sampling);
      Pcg32 random(seed);
      ids.push_back(RandomToken(random, vocabulary));
      rows.push_back(static_cast<int32_t>(i));
      out.push_back({ids.back()});
    }
    std::vector<float> logits(static_cast<size_t>(count * vocabulary));
    for (int64_t t = 1; t < length; ++t) {
      if (options_.stopped && options_.stopped()) return absl::CancelledError("cancelled");
      std::vector<SequenceRows> sequences;
      for (int64_t i = 0; i < count; ++i) {
        sequences.push_back(
            {caches[i].get(), static_cast<int32_t>(i), 1, static_cast<int32_t>(t - 1)});
      }
      absl::Status status;
      RunCompute(TaskPriority::kBackground, [&] {
        status = decoder_.Forward(ids, sequences);
        if (status.ok()) status = decoder_.Logits(rows, logits);
      });
      RETURN_IF_ERROR(status);
      for (int64_t i = 0; i < count; ++i) {
        const std::span<const float> row(logits.data() + i * vocabulary,
                                         static_cast<size_t>(vocabulary));
        ASSIGN_OR_RETURN(const SampledToken token, samplers[i].Sample(row));
        ids[i] = token.id;
        out[out.size() - static_cast<size_t>(count - i)].push_back(token.id);
      }
    }
    return absl::OkStatus();
  }

 private:
  Backend& backend_;
  Decoder& decoder_;
  const SelfCalibrationOptions& options_;
};

}  // namespace

absl::StatusOr<TokenSequences> WriteOwnText(std::unique_ptr<ModelSource> source,
                                            const CalibrationSpec& spec,
                                            const SelfCalibrationOptions& options) {
  if (source->config().is_encoder()) return RandomTokens(source->config(), spec, options.seed);
  LoadOptions load;
  load.max_sequences = static_cast<int>(kTogether);
  ASSIGN_OR_RETURN(const LoadPlan plan, PlanLoad(*source, load));
  RETURN_IF_ERROR(CheckFitsMemory(plan.estimate, options.memory_limit_bytes));
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, CreateBackend("cpu"));
  const auto progress = [&options](int64_t, int64_t) {
    const bool stop = options.stopped && options.stopped();
    return stop ? absl::CancelledError("cancelled") : absl::OkStatus();
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder,
                   Decoder::Load(*source, *backend,
                                 {.compute = Compute::kFast,
                                  .context_length = static_cast<int32_t>(spec.seqlen),
                                  .max_batch_tokens = static_cast<int32_t>(kTogether),
                                  .max_logit_rows = static_cast<int32_t>(kTogether),
                                  .on_progress = progress}));
  Writer writer(*backend, *decoder, options);
  TokenSequences sequences;
  for (int64_t first = 0; first < spec.nsamples; first += kTogether) {
    RETURN_IF_ERROR(
        writer.Write(first, std::min(kTogether, spec.nsamples - first), spec.seqlen, sequences));
  }
  return sequences;
}

}  // namespace quantd
