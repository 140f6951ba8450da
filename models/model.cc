#include "models/model.h"

#include <utility>

#include "models/loaded_model.h"
#include "models/memory_plan.h"
#include "models/parameters.h"

namespace quantd {
namespace {

std::function<absl::Status(int64_t, int64_t)> ProgressOf(const LoadOptions& options) {
  return [&options](int64_t done, int64_t total) {
    if (options.cancelled && options.cancelled()) return absl::CancelledError("load cancelled");
    if (options.on_progress) options.on_progress(done, total);
    return absl::OkStatus();
  };
}

absl::Status LoadDecoder(const ModelSource& source, const LoadOptions& options, Engine& engine) {
  ASSIGN_OR_RETURN(engine.decoder, Decoder::Load(source, *engine.backend,
                                                 {.compute = options.compute,
                                                  .round_inputs = options.quantize_activations,
                                                  .context_length = engine.context_length,
                                                  .max_batch_tokens = engine.max_batch_tokens,
                                                  .max_logit_rows = engine.max_logit_rows,
                                                  .observer = options.observer,
                                                  .on_progress = ProgressOf(options)}));
  engine.logits.resize(static_cast<size_t>(engine.max_logit_rows * engine.config.vocab_size));
  uint64_t kv_limit = 0;
  if (options.memory_limit_bytes > 0) {
    ModelMemory held;
    held.weight_bytes = engine.decoder->packed_bytes().total;
    held.workspace_bytes = engine.workspace_bytes();
    RETURN_IF_ERROR(CheckFitsMemory(held, options.memory_limit_bytes));
    // Something is left: exactly nothing would mean no limit.
    kv_limit = options.memory_limit_bytes - held.weight_bytes - held.workspace_bytes + 1;
  }
  ASSIGN_OR_RETURN(engine.kv, KvPool::Create(*engine.backend, engine.decoder->kv_shape(0), kv_limit,
                                             options.max_sequences));
  return absl::OkStatus();
}

absl::Status LoadEncoder(const ModelSource& source, const LoadOptions& options, Engine& engine) {
  ASSIGN_OR_RETURN(engine.encoder, Encoder::Load(source, *engine.backend,
                                                 {.compute = options.compute,
                                                  .round_inputs = options.quantize_activations,
                                                  .max_batch_tokens = engine.max_batch_tokens,
                                                  .observer = options.observer,
                                                  .on_progress = ProgressOf(options)}));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCheckpoint(const ModelSource& source) {
  const ModelConfig& config = source.config();
  absl::StatusOr<ParameterList> expected =
      config.is_encoder() ? EncoderParameters(config, source) : DecoderParameters(config, source);
  RETURN_IF_ERROR(expected.status());
  return CheckParameters(source, *expected);
}

absl::StatusOr<ModelMemory> Model::EstimateMemory(const ModelSource& source,
                                                  const LoadOptions& options) {
  ASSIGN_OR_RETURN(const LoadPlan plan, PlanLoad(source, options));
  return plan.estimate;
}

absl::StatusOr<std::shared_ptr<Model>> Model::Load(std::unique_ptr<ModelSource> source,
                                                   const LoadOptions& options) {
  RETURN_IF_ERROR(CheckCheckpoint(*source));
  ASSIGN_OR_RETURN(const LoadPlan plan, PlanLoad(*source, options));
  RETURN_IF_ERROR(CheckFitsMemory(plan.estimate, options.memory_limit_bytes));
  ASSIGN_OR_RETURN(ModelText text, LoadModelText(*source));

  auto engine = std::make_shared<Engine>();
  engine->device = ResolveDevice(options.device);
  ASSIGN_OR_RETURN(engine->backend, CreateBackend(engine->device));
  engine->device = engine->backend->info().id;
  engine->config = source->config();
  engine->context_length = plan.context_length;
  engine->max_batch_tokens = plan.max_batch_tokens;
  engine->max_logit_rows = plan.max_logit_rows;
  RETURN_IF_ERROR(engine->config.is_encoder() ? LoadEncoder(*source, options, *engine)
                                              : LoadDecoder(*source, options, *engine));
  return std::make_shared<LoadedModel>(std::move(engine), std::move(text), source->quantization(),
                                       options);
}

}  // namespace quantd
