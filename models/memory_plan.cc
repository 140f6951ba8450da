#include "models/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr int32_t kDefaultContext = 8192;
constexpr int32_t kBatchTokens = 512;
constexpr uint64_t kLogitBytes = 16 << 20;
// Fewer tokens than this are not worth loading a model for.
constexpr uint64_t kShortSequence = 128;

absl::Status CheckOptions(const LoadOptions& options) {
  if (options.context_length < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("context_length ", options.context_length, ": expected 0 or more"));
  }
  if (options.max_sequences < 1 || options.max_sequences > kBatchTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_sequences ", options.max_sequences, ": expected 1 to ", kBatchTokens));
  }
  if (options.max_queued < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_queued ", options.max_queued, ": expected 0 or more"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> ContextLength(const ModelConfig& config, const LoadOptions& options) {
  int64_t longest = config.max_position_embeddings;
  const bool windowed = config.sliding_window > 0 && config.sliding_window < longest;
  // Within its window sliding attention is full attention; beyond it would need another mask.
  if (windowed) longest = config.sliding_window;
  longest = std::min<int64_t>(longest, 1 << 24);
  if (options.context_length > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("context_length ", options.context_length, " is longer than the model's ",
                     longest, windowed ? " (its sliding window)" : "", "; ask for at most that"));
  }
  if (config.is_encoder()) return static_cast<int32_t>(longest);
  if (options.context_length > 0) return options.context_length;
  // Beyond the original length all positions of longrope are rotated otherwise: for who asks for
  // it.
  const RopeScaling& rope = config.rope_scaling;
  if (rope.kind == RopeScaling::Kind::kLongRope) {
    longest = std::min(longest, rope.original_max_positions);
  }
  return static_cast<int32_t>(std::min<int64_t>(longest, kDefaultContext));
}

// Methods whose codes stand for vectors, which no layout keeps packed.
bool IsVectorCodes(const SourceParameter& parameter) {
  for (const char* method : {"higgs", "aqlm", "vptq"}) {
    if (parameter.stored_as == method) return true;
  }
  return false;
}

// What a backend makes of one parameter, from its stored size alone. Exact compute keeps float32.
// Fast compute keeps codes in 4 or 8 bits (a sixteenth more for scales, or what they take in the
// file and an eighth for padding), and what it cannot keep packed in 16.
uint64_t PackedEstimate(const SourceParameter& parameter, Compute compute) {
  if (parameter.shape.size() != 2) return parameter.stored_bytes;
  const auto elements = static_cast<uint64_t>(NumElements(parameter.shape));
  if (compute == Compute::kExact) return 4 * elements;
  if (!parameter.is_quantized) return parameter.stored_bytes;
  if (IsVectorCodes(parameter)) return 2 * elements;
  // 4-bit codes with a float32 scale and offset for 64 of them take 5 bits.
  const bool is_four_bit = 8 * parameter.stored_bytes <= 5 * elements + elements / 16;
  const uint64_t codes = is_four_bit ? elements / 2 : elements;
  const uint64_t held =
      std::max(parameter.stored_bytes + parameter.stored_bytes / 8, codes + codes / 16);
  return std::min(held, 2 * elements);
}

void EstimateDecoder(const ModelConfig& config, const LoadOptions& options, LoadPlan& plan) {
  const uint64_t heads = config.num_attention_heads * config.head_dim;
  const uint64_t kv_heads = config.num_key_value_heads * config.head_dim;
  const uint64_t element = options.compute == Compute::kExact ? 4 : 2;
  ModelMemory& memory = plan.estimate;
  memory.kv_bytes_per_token = 2 * config.num_hidden_layers * kv_heads * element;
  memory.kv_bytes = memory.kv_bytes_per_token * plan.context_length;
  const uint64_t per_token =
      config.hidden_size + 2 * heads + 2 * kv_heads + config.intermediate_size;
  const uint64_t logit_rows =
      static_cast<uint64_t>(plan.max_logit_rows) * (2 * config.vocab_size + config.hidden_size);
  const uint64_t rope = static_cast<uint64_t>(plan.context_length) * config.rotary_dims();
  memory.workspace_bytes = sizeof(float) * (plan.max_batch_tokens * per_token + logit_rows + rope);
}

}  // namespace

absl::StatusOr<LoadPlan> PlanLoad(const ModelSource& source, const LoadOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  const ModelConfig& config = source.config();
  LoadPlan plan;
  ASSIGN_OR_RETURN(plan.context_length, ContextLength(config, options));
  for (const SourceParameter& parameter : source.parameters()) {
    plan.estimate.weight_bytes += PackedEstimate(parameter, options.compute);
  }
  if (config.is_encoder()) {
    plan.max_batch_tokens = std::max(kBatchTokens, plan.context_length);
    plan.estimate.workspace_bytes = sizeof(float) * static_cast<uint64_t>(plan.max_batch_tokens) *
                                    (6 * config.hidden_size + config.intermediate_size);
    return plan;
  }
  plan.max_batch_tokens =
      std::max(std::min(kBatchTokens, plan.context_length), options.max_sequences);
  const uint64_t row_bytes = sizeof(float) * std::max<uint64_t>(config.vocab_size, 1);
  plan.max_logit_rows =
      static_cast<int32_t>(std::clamp<uint64_t>(kLogitBytes / row_bytes, 16, 256));
  EstimateDecoder(config, options, plan);
  return plan;
}

absl::Status CheckFitsMemory(const ModelMemory& memory, uint64_t limit_bytes) {
  const uint64_t kv = memory.kv_bytes_per_token * kShortSequence;
  const uint64_t needed = memory.weight_bytes + memory.workspace_bytes + kv;
  if (limit_bytes == 0 || needed <= limit_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the model needs ", needed, " bytes (weights ", memory.weight_bytes,
                   ", workspace ", memory.workspace_bytes, ", KV cache ", memory.kv_bytes_per_token,
                   " per token), the memory limit is ", limit_bytes,
                   "; unload other models, quantize to fewer bits or raise the limit"));
}

}  // namespace quantd
