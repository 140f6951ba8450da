#include "models/architectures/encoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

std::string PrefixOf(const ModelSource& source) {
  return source.Has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
}

std::string LayerPrefix(const std::string& prefix, int64_t layer) {
  return absl::StrCat(prefix, "encoder.layer.", layer, ".");
}

std::optional<Activation> ActivationNamed(absl::string_view name) {
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  return std::nullopt;
}

void AddNorm(const std::string& module, int64_t size, std::vector<ParameterSpec>& used) {
  used.push_back({absl::StrCat(module, ".weight"), {size}});
  used.push_back({absl::StrCat(module, ".bias"), {size}});
}

void AddLayerParameters(const ModelConfig& config, const std::string& layer,
                        std::vector<ParameterSpec>& used) {
  const int64_t hidden = config.hidden_size;
  const auto add = [&](absl::string_view module, int64_t rows, int64_t cols) {
    used.push_back({absl::StrCat(layer, module, ".weight"), {rows, cols}});
    used.push_back({absl::StrCat(layer, module, ".bias"), {rows}});
  };
  add("attention.self.query", hidden, hidden);
  add("attention.self.key", hidden, hidden);
  add("attention.self.value", hidden, hidden);
  add("attention.output.dense", hidden, hidden);
  AddNorm(absl::StrCat(layer, "attention.output.LayerNorm"), hidden, used);
  add("intermediate.dense", config.intermediate_size, hidden);
  add("output.dense", hidden, config.intermediate_size);
  AddNorm(absl::StrCat(layer, "output.LayerNorm"), hidden, used);
}

}  // namespace

std::string EncoderBlockPrefix(const ModelSource& source, int64_t block) {
  return LayerPrefix(PrefixOf(source), block);
}

absl::StatusOr<ParameterList> EncoderParameters(const ModelConfig& config,
                                                const ModelSource& source) {
  if (!ActivationNamed(config.hidden_act)) {
    return absl::UnimplementedError(
        absl::StrCat("hidden_act \"", config.hidden_act,
                     "\" of an encoder: expected \"gelu\", \"gelu_new\", \"relu\" or \"silu\""));
  }
  if (config.pooling != "mean" && config.pooling != "cls" && config.pooling != "max") {
    return absl::UnimplementedError(
        absl::StrCat("pooling \"", config.pooling, "\": expected \"mean\", \"cls\" or \"max\""));
  }
  ParameterList list;
  const std::string prefix = PrefixOf(source);
  const std::string embeddings = absl::StrCat(prefix, "embeddings.");
  const int64_t hidden = config.hidden_size;
  list.used.push_back(
      {absl::StrCat(embeddings, "word_embeddings.weight"), {config.vocab_size, hidden}});
  list.used.push_back({absl::StrCat(embeddings, "position_embeddings.weight"),
                       {config.max_position_embeddings, hidden}});
  list.used.push_back(
      {absl::StrCat(embeddings, "token_type_embeddings.weight"), {config.type_vocab_size, hidden}});
  AddNorm(absl::StrCat(embeddings, "LayerNorm"), hidden, list.used);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    AddLayerParameters(config, LayerPrefix(prefix, layer), list.used);
  }
  // The pooler and the pre-training heads are not used by sentence embeddings.
  list.ignored = {"embeddings.position_ids", "pooler.", "cls."};
  return list;
}

Encoder::Encoder(const ModelConfig& config, Backend& backend, const Options& options)
    : config_(config),
      backend_(backend),
      options_(options),
      activation_(ActivationNamed(config.hidden_act).value_or(Activation::kGelu)) {}

absl::StatusOr<std::unique_ptr<Encoder>> Encoder::Load(const ModelSource& source, Backend& backend,
                                                       const Options& options) {
  std::unique_ptr<Encoder> encoder(new Encoder(source.config(), backend, options));
  RETURN_IF_ERROR(encoder->LoadWeights(source));
  if (options.round_inputs && !encoder->rounds_inputs_) return NoInputRounding();
  RETURN_IF_ERROR(encoder->AllocateWorkspace());
  return encoder;
}

absl::Status Encoder::LoadWeights(const ModelSource& source) {
  const std::string prefix = PrefixOf(source);
  const int64_t total = config_.num_hidden_layers + 1;
  RETURN_IF_ERROR(LoadEmbeddings(source, absl::StrCat(prefix, "embeddings.")));
  RETURN_IF_ERROR(options_.on_progress(1, total));
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    ASSIGN_OR_RETURN(Layer layer, LoadLayer(source, LayerPrefix(prefix, i)));
    layers_.push_back(std::move(layer));
    RETURN_IF_ERROR(options_.on_progress(i + 2, total));
  }
  return absl::OkStatus();
}

absl::Status Encoder::LoadEmbeddings(const ModelSource& source, const std::string& prefix) {
  const int64_t hidden = config_.hidden_size;
  ASSIGN_OR_RETURN(
      words_, Linear::Load(source, backend_,
                           {{absl::StrCat(prefix, "word_embeddings"), config_.vocab_size}}, hidden,
                           {.compute = options_.compute}));
  packed_bytes_.Add(words_);
  ASSIGN_OR_RETURN(embedding_norm_, LoadNorm(source, absl::StrCat(prefix, "LayerNorm")));

  // Every token here has type 0, so its embedding is a constant of the position.
  const auto dense = [&](absl::string_view name,
                         int64_t rows) -> absl::StatusOr<std::vector<float>> {
    ASSIGN_OR_RETURN(const Weight weight,
                     ReadMatrix(source, absl::StrCat(prefix, name), rows, hidden));
    if (const auto* quantized = std::get_if<QuantizedTensor>(&weight))
      return Dequantize(*quantized);
    const Tensor f32 = ConvertTensor(std::get<Tensor>(weight).view(), DType::kF32);
    const auto* values = reinterpret_cast<const float*>(f32.bytes.data());
    return std::vector<float>(values, values + rows * hidden);
  };
  const int64_t positions = config_.max_position_embeddings;
  ASSIGN_OR_RETURN(std::vector<float> table, dense("position_embeddings.weight", positions));
  ASSIGN_OR_RETURN(const std::vector<float> types,
                   dense("token_type_embeddings.weight", config_.type_vocab_size));
  for (int64_t i = 0; i < positions * hidden; ++i) table[i] += types[i % hidden];
  const Weight positions_weight =
      TensorOf<float>(DType::kF32, {positions, hidden}, std::span<const float>(table));
  const Weight* parts[] = {&positions_weight};
  // Small, looked up and never multiplied: kept in float32.
  ASSIGN_OR_RETURN(positions_, backend_.Pack(parts, {.compute = Compute::kExact}));
  packed_bytes_.Add(*positions_);
  return absl::OkStatus();
}

absl::StatusOr<Encoder::LayerNorm> Encoder::LoadNorm(const ModelSource& source,
                                                     const std::string& module) {
  LayerNorm norm;
  ASSIGN_OR_RETURN(const std::vector<float> weight,
                   ReadVector(source, absl::StrCat(module, ".weight"), config_.hidden_size));
  ASSIGN_OR_RETURN(norm.weight, UploadRow(backend_, weight));
  ASSIGN_OR_RETURN(const std::vector<float> bias,
                   ReadVector(source, absl::StrCat(module, ".bias"), config_.hidden_size));
  ASSIGN_OR_RETURN(norm.bias, UploadRow(backend_, bias));
  return norm;
}

absl::StatusOr<Encoder::Layer> Encoder::LoadLayer(const ModelSource& source,
                                                  const std::string& prefix) {
  const int64_t hidden = config_.hidden_size;
  const int64_t mlp = config_.intermediate_size;
  const PackOptions pack = {.compute = options_.compute, .round_inputs = options_.round_inputs};
  const auto module = [&prefix](absl::string_view name) { return absl::StrCat(prefix, name); };
  Layer layer;
  const std::vector<Linear::Part> qkv = {{module("attention.self.query"), hidden},
                                         {module("attention.self.key"), hidden},
                                         {module("attention.self.value"), hidden}};
  ASSIGN_OR_RETURN(layer.qkv, Linear::Load(source, backend_, qkv, hidden, pack));
  ASSIGN_OR_RETURN(
      layer.output,
      Linear::Load(source, backend_, {{module("attention.output.dense"), hidden}}, hidden, pack));
  ASSIGN_OR_RETURN(layer.attention_norm, LoadNorm(source, module("attention.output.LayerNorm")));
  ASSIGN_OR_RETURN(layer.up, Linear::Load(source, backend_, {{module("intermediate.dense"), mlp}},
                                          hidden, pack));
  ASSIGN_OR_RETURN(layer.down,
                   Linear::Load(source, backend_, {{module("output.dense"), hidden}}, mlp, pack));
  ASSIGN_OR_RETURN(layer.output_norm, LoadNorm(source, module("output.LayerNorm")));
  for (Linear* linear : {&layer.qkv, &layer.output, &layer.up, &layer.down}) {
    packed_bytes_.Add(*linear);
    rounds_inputs_ = rounds_inputs_ || linear->rounds_inputs();
    linear->set_observer(options_.observer);
  }
  return layer;
}

absl::Status Encoder::AllocateWorkspace() {
  const int64_t tokens = options_.max_batch_tokens;
  const int64_t hidden = config_.hidden_size;
  ASSIGN_OR_RETURN(hidden_, backend_.Allocate(tokens, hidden));
  ASSIGN_OR_RETURN(qkv_, backend_.Allocate(tokens, 3 * hidden));
  ASSIGN_OR_RETURN(attention_, backend_.Allocate(tokens, hidden));
  ASSIGN_OR_RETURN(mlp_, backend_.Allocate(tokens, config_.intermediate_size));
  workspace_bytes_ =
      static_cast<uint64_t>(tokens) * (5 * hidden + config_.intermediate_size) * sizeof(float);
  return absl::OkStatus();
}

Norm Encoder::NormOf(const LayerNorm& norm) const {
  return {.kind = Norm::Kind::kLayer,
          .weight = norm.weight.get(),
          .bias = norm.bias.get(),
          .epsilon = static_cast<float>(config_.norm_eps)};
}

absl::Status Encoder::Forward(std::span<const int32_t> ids, std::span<const SequenceRows> sequences,
                              std::span<float> out) {
  RETURN_IF_ERROR(Embed(ids, sequences));
  const int64_t tokens = static_cast<int64_t>(ids.size());
  for (const Layer& layer : layers_) RETURN_IF_ERROR(RunLayer(layer, tokens, sequences));
  return backend_.Download(*hidden_, 0, tokens, out);
}

absl::Status Encoder::Embed(std::span<const int32_t> ids, std::span<const SequenceRows> sequences) {
  std::vector<int32_t> positions;
  positions.reserve(ids.size());
  for (const SequenceRows& rows : sequences) {
    for (int32_t i = 0; i < rows.rows; ++i) positions.push_back(i);
  }
  RETURN_IF_ERROR(backend_.Embed(words_.weight(), ids, *hidden_));
  RETURN_IF_ERROR(backend_.Embed(*positions_, positions, *attention_));
  return backend_.Normalize(*hidden_, attention_.get(), NormOf(embedding_norm_),
                            static_cast<int64_t>(ids.size()), *hidden_);
}

absl::Status Encoder::RunLayer(const Layer& layer, int64_t tokens,
                               std::span<const SequenceRows> sequences) {
  RETURN_IF_ERROR(
      layer.qkv.Apply(backend_, {.x = hidden_.get(), .tokens = tokens, .y = qkv_.get()}));
  RETURN_IF_ERROR(backend_.Attention(
      {.layer = 0,
       .heads = static_cast<int>(config_.num_attention_heads),
       .kv_heads = static_cast<int>(config_.num_attention_heads),
       .head_dim = static_cast<int>(config_.head_dim),
       .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim))),
       .causal = false,
       .qkv = qkv_.get(),
       .sequences = sequences,
       .out = attention_.get()}));
  RETURN_IF_ERROR(layer.output.Apply(
      backend_,
      {.x = attention_.get(), .tokens = tokens, .residual = hidden_.get(), .y = hidden_.get()}));
  RETURN_IF_ERROR(
      backend_.Normalize(*hidden_, nullptr, NormOf(layer.attention_norm), tokens, *hidden_));
  RETURN_IF_ERROR(layer.up.Apply(
      backend_,
      {.x = hidden_.get(), .tokens = tokens, .activation = activation_, .y = mlp_.get()}));
  RETURN_IF_ERROR(layer.down.Apply(
      backend_,
      {.x = mlp_.get(), .tokens = tokens, .residual = hidden_.get(), .y = hidden_.get()}));
  return backend_.Normalize(*hidden_, nullptr, NormOf(layer.output_norm), tokens, *hidden_);
}

std::vector<float> PoolSentence(const ModelConfig& config, std::span<const float> hidden_states,
                                bool normalize) {
  const size_t hidden = static_cast<size_t>(config.hidden_size);
  const size_t tokens = hidden_states.size() / hidden;
  std::vector<float> pooled(hidden_states.begin(), hidden_states.begin() + hidden);
  const bool mean = config.pooling == "mean", max = config.pooling == "max";
  for (size_t t = 1; t < tokens && (mean || max); ++t) {
    const float* row = hidden_states.data() + t * hidden;
    for (size_t i = 0; i < hidden; ++i) {
      pooled[i] = mean ? pooled[i] + row[i] : std::max(pooled[i], row[i]);
    }
  }
  if (mean) {
    for (float& value : pooled) value /= static_cast<float>(tokens);
  }
  if (!normalize) return pooled;
  double squares = 0;
  for (const float value : pooled) squares += static_cast<double>(value) * value;
  const double length = std::max(std::sqrt(squares), 1e-12);
  for (float& value : pooled) value = static_cast<float>(value / length);
  return pooled;
}

}  // namespace quantd
