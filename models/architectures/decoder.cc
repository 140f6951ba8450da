#include "models/architectures/decoder.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/quantized_cache.h"
#include "models/architectures/rope.h"

namespace quantd {
namespace {

// "model." in checkpoints of a ...ForCausalLM class, nothing in those of the bare model.
std::string PrefixOf(const ModelSource& source) {
  return source.Has("embed_tokens.weight") ? "" : "model.";
}

std::string LayerPrefix(const std::string& prefix, int64_t layer) {
  return absl::StrCat(prefix, "layers.", layer, ".");
}

using Parts = std::vector<Linear::Part>;

// The matrices that stand below each other in [q; k; v] and in [gate; up].
Parts QkvParts(const ModelConfig& config, const std::string& layer) {
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  if (config.fused_projections) return {{absl::StrCat(layer, "self_attn.qkv_proj"), q + 2 * kv}};
  return {{absl::StrCat(layer, "self_attn.q_proj"), q},
          {absl::StrCat(layer, "self_attn.k_proj"), kv},
          {absl::StrCat(layer, "self_attn.v_proj"), kv}};
}

Parts GateUpParts(const ModelConfig& config, const std::string& layer) {
  const int64_t mlp = config.intermediate_size;
  if (config.fused_projections) return {{absl::StrCat(layer, "mlp.gate_up_proj"), 2 * mlp}};
  return {{absl::StrCat(layer, "mlp.gate_proj"), mlp}, {absl::StrCat(layer, "mlp.up_proj"), mlp}};
}

void AddLayerParameters(const ModelConfig& config, const std::string& layer,
                        std::vector<ParameterSpec>& used) {
  const int64_t hidden = config.hidden_size;
  const int64_t mlp = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const auto add = [&](const std::string& module, int64_t rows, int64_t cols, bool needs_bias) {
    used.push_back({absl::StrCat(module, ".weight"), {rows, cols}});
    used.push_back({absl::StrCat(module, ".bias"), {rows}, !needs_bias});
  };
  used.push_back({absl::StrCat(layer, "input_layernorm.weight"), {hidden}});
  for (const Linear::Part& part : QkvParts(config, layer)) {
    add(part.module, part.rows, hidden, config.attention_bias);
  }
  if (config.qk_norm) {
    used.push_back({absl::StrCat(layer, "self_attn.q_norm.weight"), {config.head_dim}});
    used.push_back({absl::StrCat(layer, "self_attn.k_norm.weight"), {config.head_dim}});
  }
  add(absl::StrCat(layer, "self_attn.o_proj"), hidden, q, false);
  used.push_back({absl::StrCat(layer, "post_attention_layernorm.weight"), {hidden}});
  for (const Linear::Part& part : GateUpParts(config, layer)) {
    add(part.module, part.rows, hidden, config.mlp_bias);
  }
  add(absl::StrCat(layer, "mlp.down_proj"), hidden, mlp, config.mlp_bias);
}

}  // namespace

std::string DecoderBlockPrefix(const ModelSource& source, int64_t block) {
  return LayerPrefix(PrefixOf(source), block);
}

absl::StatusOr<ParameterList> DecoderParameters(const ModelConfig& config,
                                                const ModelSource& source) {
  if (config.hidden_act != "silu") {
    return absl::UnimplementedError(absl::StrCat(
        "hidden_act \"", config.hidden_act, "\" of a causal language model: expected \"silu\""));
  }
  ParameterList list;
  const std::string prefix = PrefixOf(source);
  const Shape table = {config.vocab_size, config.hidden_size};
  list.used.push_back({absl::StrCat(prefix, "embed_tokens.weight"), table});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    AddLayerParameters(config, LayerPrefix(prefix, layer), list.used);
  }
  list.used.push_back({absl::StrCat(prefix, "norm.weight"), {config.hidden_size}});
  list.used.push_back({"lm_head.weight", table, config.tie_word_embeddings});
  // Buffers of older checkpoints, computed here, and the scales of a quantized cache, which ours is
  // not.
  list.ignored = {".rotary_emb.", ".masked_bias"};
  for (const absl::string_view name : kQuantizedCacheParameters) list.ignored.emplace_back(name);
  return list;
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const ModelSource& source, Backend& backend,
                                                       const Options& options) {
  std::unique_ptr<Decoder> decoder(new Decoder(source.config(), backend, options));
  RETURN_IF_ERROR(decoder->LoadWeights(source));
  if (options.round_inputs && !decoder->rounds_inputs_) return NoInputRounding();
  RETURN_IF_ERROR(decoder->AllocateWorkspace());
  return decoder;
}

absl::Status Decoder::LoadWeights(const ModelSource& source) {
  const std::string prefix = PrefixOf(source);
  const PackOptions pack = {.compute = options_.compute, .round_inputs = options_.round_inputs};
  const int64_t total = config_.num_hidden_layers + 2;
  ASSIGN_OR_RETURN(
      embedding_,
      Linear::Load(source, backend_, {{absl::StrCat(prefix, "embed_tokens"), config_.vocab_size}},
                   config_.hidden_size, pack));
  packed_bytes_.Add(embedding_);
  RETURN_IF_ERROR(options_.on_progress(1, total));
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    ASSIGN_OR_RETURN(Layer layer, LoadLayer(source, LayerPrefix(prefix, i)));
    layers_.push_back(std::move(layer));
    RETURN_IF_ERROR(options_.on_progress(i + 2, total));
  }
  ASSIGN_OR_RETURN(const std::vector<float> norm,
                   ReadVector(source, absl::StrCat(prefix, "norm.weight"), config_.hidden_size));
  ASSIGN_OR_RETURN(final_norm_, UploadRow(backend_, norm));
  if (!config_.tie_word_embeddings) {
    ASSIGN_OR_RETURN(head_, Linear::Load(source, backend_, {{"lm_head", config_.vocab_size}},
                                         config_.hidden_size, pack));
    packed_bytes_.Add(*head_);
  }
  return options_.on_progress(total, total);
}

absl::StatusOr<Decoder::Layer> Decoder::LoadLayer(const ModelSource& source,
                                                  const std::string& prefix) {
  const int64_t hidden = config_.hidden_size;
  const int64_t mlp = config_.intermediate_size;
  const int64_t q = config_.num_attention_heads * config_.head_dim;
  const PackOptions pack = {.compute = options_.compute, .round_inputs = options_.round_inputs};
  const PackOptions paired = {
      .compute = options_.compute, .pair_gate_up = true, .round_inputs = options_.round_inputs};
  const auto module = [&prefix](absl::string_view name) { return absl::StrCat(prefix, name); };
  const auto norm = [&](absl::string_view name,
                        int64_t width) -> absl::StatusOr<std::unique_ptr<DeviceArray>> {
    ASSIGN_OR_RETURN(const std::vector<float> weight, ReadVector(source, module(name), width));
    return UploadRow(backend_, weight);
  };

  Layer layer;
  ASSIGN_OR_RETURN(layer.attention_norm, norm("input_layernorm.weight", hidden));
  ASSIGN_OR_RETURN(layer.mlp_norm, norm("post_attention_layernorm.weight", hidden));
  if (config_.qk_norm) {
    ASSIGN_OR_RETURN(layer.q_norm, norm("self_attn.q_norm.weight", config_.head_dim));
    ASSIGN_OR_RETURN(layer.k_norm, norm("self_attn.k_norm.weight", config_.head_dim));
  }
  ASSIGN_OR_RETURN(layer.qkv,
                   Linear::Load(source, backend_, QkvParts(config_, prefix), hidden, pack));
  ASSIGN_OR_RETURN(layer.output,
                   Linear::Load(source, backend_, {{module("self_attn.o_proj"), hidden}}, q, pack));
  ASSIGN_OR_RETURN(layer.gate_up,
                   Linear::Load(source, backend_, GateUpParts(config_, prefix), hidden, paired));
  ASSIGN_OR_RETURN(layer.down,
                   Linear::Load(source, backend_, {{module("mlp.down_proj"), hidden}}, mlp, pack));
  for (Linear* linear : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
    packed_bytes_.Add(*linear);
    rounds_inputs_ = rounds_inputs_ || linear->rounds_inputs();
    linear->set_observer(options_.observer);
  }
  return layer;
}

absl::StatusOr<std::unique_ptr<DeviceArray>> Decoder::AllocateCounted(int64_t rows, int64_t cols) {
  workspace_bytes_ += static_cast<uint64_t>(rows) * cols * sizeof(float);
  return backend_.Allocate(rows, cols);
}

absl::Status Decoder::AllocateWorkspace() {
  const int64_t tokens = options_.max_batch_tokens;
  const int64_t hidden = config_.hidden_size;
  const int64_t q = config_.num_attention_heads * config_.head_dim;
  const int64_t kv = config_.num_key_value_heads * config_.head_dim;
  ASSIGN_OR_RETURN(hidden_, AllocateCounted(tokens, hidden));
  ASSIGN_OR_RETURN(qkv_, AllocateCounted(tokens, q + 2 * kv));
  ASSIGN_OR_RETURN(attention_, AllocateCounted(tokens, q));
  ASSIGN_OR_RETURN(mlp_, AllocateCounted(tokens, config_.intermediate_size));
  ASSIGN_OR_RETURN(wanted_, AllocateCounted(options_.max_logit_rows, hidden));
  ASSIGN_OR_RETURN(logits_, AllocateCounted(options_.max_logit_rows, config_.vocab_size));
  ASSIGN_OR_RETURN(rope_, AllocateCounted(options_.context_length, config_.rotary_dims()));
  return backend_.Upload(RopeTable(config_, options_.context_length), *rope_);
}

KvShape Decoder::kv_shape(int capacity) const {
  return {.layers = static_cast<int>(config_.num_hidden_layers),
          .kv_heads = static_cast<int>(config_.num_key_value_heads),
          .head_dim = static_cast<int>(config_.head_dim),
          .capacity = capacity,
          .compute = options_.compute};
}

Norm Decoder::RmsNorm(const std::unique_ptr<DeviceArray>& weight) const {
  return {.kind = Norm::Kind::kRms,
          .weight = weight.get(),
          .epsilon = static_cast<float>(config_.norm_eps)};
}

absl::Status Decoder::Forward(std::span<const int32_t> ids,
                              std::span<const SequenceRows> sequences) {
  RETURN_IF_ERROR(backend_.Embed(embedding_.weight(), ids, *hidden_));
  for (size_t i = 0; i < layers_.size(); ++i) {
    RETURN_IF_ERROR(RunLayer(static_cast<int>(i), static_cast<int64_t>(ids.size()), sequences));
  }
  return absl::OkStatus();
}

absl::Status Decoder::RunLayer(int index, int64_t tokens, std::span<const SequenceRows> sequences) {
  const Layer& layer = layers_[index];
  RETURN_IF_ERROR(layer.qkv.Apply(backend_, {.norm = RmsNorm(layer.attention_norm),
                                             .x = hidden_.get(),
                                             .tokens = tokens,
                                             .y = qkv_.get()}));
  RETURN_IF_ERROR(backend_.Attention(
      {.layer = index,
       .heads = static_cast<int>(config_.num_attention_heads),
       .kv_heads = static_cast<int>(config_.num_key_value_heads),
       .head_dim = static_cast<int>(config_.head_dim),
       .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim))),
       .q_norm = layer.q_norm.get(),
       .k_norm = layer.k_norm.get(),
       .norm_epsilon = static_cast<float>(config_.norm_eps),
       .rope = rope_.get(),
       .qkv = qkv_.get(),
       .sequences = sequences,
       .out = attention_.get()}));
  RETURN_IF_ERROR(layer.output.Apply(
      backend_,
      {.x = attention_.get(), .tokens = tokens, .residual = hidden_.get(), .y = hidden_.get()}));
  RETURN_IF_ERROR(layer.gate_up.Apply(backend_, {.norm = RmsNorm(layer.mlp_norm),
                                                 .x = hidden_.get(),
                                                 .tokens = tokens,
                                                 .activation = Activation::kSiluMul,
                                                 .y = mlp_.get()}));
  return layer.down.Apply(
      backend_, {.x = mlp_.get(), .tokens = tokens, .residual = hidden_.get(), .y = hidden_.get()});
}

absl::Status Decoder::Logits(std::span<const int32_t> rows, std::span<float> out) {
  const int64_t count = static_cast<int64_t>(rows.size());
  RETURN_IF_ERROR(backend_.GatherRows(*hidden_, rows, *wanted_));
  const Linear& head = head_ ? *head_ : embedding_;
  RETURN_IF_ERROR(head.Apply(
      backend_,
      {.norm = RmsNorm(final_norm_), .x = wanted_.get(), .tokens = count, .y = logits_.get()}));
  return backend_.Download(*logits_, 0, count, out);
}

}  // namespace quantd
