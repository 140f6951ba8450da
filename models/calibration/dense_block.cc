#include "models/calibration/dense_block.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/parallel.h"

namespace quantd::calibration {
namespace {

void Add(const FloatBuffer& a, const FloatBuffer& b, FloatBuffer& sum) {
  constexpr int64_t kTask = 1 << 14;
  const auto size = static_cast<int64_t>(a.size());
  sum.resize(a.size());
  ParallelFor((size + kTask - 1) / kTask,
              [&](int64_t task) {
                const int64_t end = std::min(size, (task + 1) * kTask);
                for (int64_t i = task * kTask; i < end; ++i) sum[i] = a[i] + b[i];
              },
              1e-5);
}

Activation ActivationOf(const ModelConfig& config) {
  const std::string& name = config.hidden_act;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  return name == "relu" ? Activation::kRelu : Activation::kSilu;
}

}  // namespace

BlockNames NamesOf(const ModelConfig& config, const std::string& prefix) {
  const auto name = [&prefix](absl::string_view local) { return absl::StrCat(prefix, local); };
  if (config.is_encoder()) {
    return {.qkv = {name("attention.self.query"), name("attention.self.key"),
                    name("attention.self.value")},
            .o = name("attention.output.dense"),
            .gate_up = {name("intermediate.dense")},
            .down = name("output.dense"),
            .attention_norm = name("attention.output.LayerNorm"),
            .mlp_norm = name("output.LayerNorm")};
  }
  BlockNames names = {
      .qkv = {name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")},
      .o = name("self_attn.o_proj"),
      .gate_up = {name("mlp.gate_proj"), name("mlp.up_proj")},
      .down = name("mlp.down_proj"),
      .attention_norm = name("input_layernorm"),
      .mlp_norm = name("post_attention_layernorm")};
  if (config.fused_projections) {
    names.qkv = {name("self_attn.qkv_proj")};
    names.gate_up = {name("mlp.gate_up_proj")};
  }
  if (config.qk_norm) {
    names.q_norm = name("self_attn.q_norm");
    names.k_norm = name("self_attn.k_norm");
  }
  return names;
}

std::vector<BlockLinear> LinearsOf(const ModelConfig& config, const BlockNames& names) {
  const int64_t hidden = config.hidden_size, mlp = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv =
      (config.is_encoder() ? config.num_attention_heads : config.num_key_value_heads) *
      config.head_dim;
  std::vector<BlockLinear> linears;
  const bool is_fused = names.qkv.size() == 1;
  for (const std::string& module : names.qkv) {
    const int64_t rows = is_fused ? q + 2 * kv : linears.empty() ? q : kv;
    linears.push_back({module, rows, hidden, BlockValue::kAttentionInput});
  }
  linears.push_back({names.o, hidden, q, BlockValue::kAttended});
  for (const std::string& module : names.gate_up) {
    linears.push_back(
        {module, config.fused_projections ? 2 * mlp : mlp, hidden, BlockValue::kMlpInput});
  }
  linears.push_back({names.down, hidden, mlp, BlockValue::kMlpHidden});
  return linears;
}

DenseBlock::DenseBlock(const ModelConfig& config, BlockNames names,
                       std::map<std::string, std::vector<float>> parameters,
                       const std::vector<float>* rope, std::function<bool()> stopped,
                       ProductDevice* device)
    : config_(config),
      names_(std::move(names)),
      attention_{config.num_attention_heads,
                 config.is_encoder() ? config.num_attention_heads : config.num_key_value_heads,
                 config.head_dim, !config.is_encoder()},
      activation_(ActivationOf(config)),
      linears_(LinearsOf(config, names_)),
      parameters_(std::move(parameters)),
      rope_(rope),
      device_(device),
      products_(std::move(stopped), device) {}

std::vector<std::string> DenseBlock::norms() const {
  if (names_.q_norm.empty()) return {names_.attention_norm, names_.mlp_norm};
  return {names_.attention_norm, names_.q_norm, names_.k_norm, names_.mlp_norm};
}

std::span<float> DenseBlock::Parameter(absl::string_view name) {
  const auto it = parameters_.find(std::string(name));
  if (absl::EndsWith(name, ".weight")) {
    products_.Forget(std::string(absl::StripSuffix(name, ".weight")));
  }
  return it == parameters_.end() ? std::span<float>() : std::span<float>(it->second);
}

void DenseBlock::SetRounding(const BlockRounding& rounding) {
  attention_.rounding = rounding.attention;
  products_.SetRounding(rounding.linears);
}

void DenseBlock::Work(absl::FunctionRef<void()> body) const {
  if (products_.on_device()) {
    body();
  } else {
    RunBackground(body);
  }
}

int64_t DenseBlock::WidthOf(BlockValue value) const {
  if (value == BlockValue::kAttended) return attention_.heads * attention_.head_dim;
  return value == BlockValue::kMlpHidden ? config_.intermediate_size : config_.hidden_size;
}

const float* DenseBlock::Find(const std::string& module, const char* local) const {
  const auto it = parameters_.find(absl::StrCat(module, local));
  return it == parameters_.end() ? nullptr : it->second.data();
}

LinearWeight DenseBlock::WeightOf(const std::string& module) const {
  const auto linear = std::ranges::find(linears_, module, &BlockLinear::module);
  return {module, Find(module, ".weight"), linear->rows, linear->cols};
}

void DenseBlock::Apply(const std::string& module, TokenOperand& x, Of of, FloatBuffer& y) {
  const LinearWeight weight = WeightOf(module);
  y.resize(static_cast<size_t>(x.tokens() * weight.rows));
  const float* bias = of == Of::kValues ? Find(module, ".bias") : nullptr;
  for (int64_t t = 0; bias != nullptr && t < x.tokens(); ++t) {
    std::copy_n(bias, weight.rows, y.data() + t * weight.rows);
  }
  products_.Forward(x, weight, bias != nullptr, y.data());
}

RowNormArgs DenseBlock::NormArgs(const std::string& module) const {
  return {.is_layer_norm = is_encoder(),
          .weight = Find(module, ".weight"),
          .bias = Find(module, ".bias"),
          .epsilon = static_cast<float>(config_.norm_eps)};
}

int64_t DenseBlock::NormWidth(const std::string& module) const {
  return static_cast<int64_t>(parameters_.at(absl::StrCat(module, ".weight")).size());
}

void DenseBlock::Normalize(const std::string& module, const FloatBuffer& x, FloatBuffer& y) const {
  y.resize(x.size());
  const RowNormArgs norm = NormArgs(module);
  const int64_t width = NormWidth(module);
  ForRows(static_cast<int64_t>(x.size()) / width, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      NormalizeRow(norm, x.data() + t * width, width, y.data() + t * width);
    }
  });
}

void DenseBlock::NormalizeHeads(const std::string& module, FloatBuffer& raw,
                                FloatBuffer& heads) const {
  if (module.empty()) return;
  std::swap(raw, heads);
  Normalize(module, raw, heads);
}

std::vector<DenseBlock::Part> DenseBlock::QkvParts(FloatBuffer& q, FloatBuffer& k,
                                                   FloatBuffer& v) const {
  const int64_t kv = attention_.kv_heads * attention_.head_dim;
  return {{q, attention_.heads * attention_.head_dim}, {k, kv}, {v, kv}};
}

std::vector<DenseBlock::Part> DenseBlock::GateUpParts(FloatBuffer& gate, FloatBuffer& up) const {
  const int64_t width = config_.intermediate_size;
  if (is_encoder()) return {{gate, width}};
  return {{gate, width}, {up, width}};
}

void DenseBlock::ApplyAll(const std::vector<std::string>& modules, TokenOperand& x, Of of,
                          const std::vector<Part>& parts) {
  if (modules.size() == parts.size()) {
    for (size_t i = 0; i < parts.size(); ++i) Apply(modules[i], x, of, parts[i].values);
    return;
  }
  Apply(modules.front(), x, of, fused_);
  const int64_t tokens = x.tokens(), width = static_cast<int64_t>(fused_.size()) / tokens;
  int64_t column = 0;
  for (const Part& part : parts) {
    part.values.resize(static_cast<size_t>(tokens * part.width));
    ForRows(tokens, [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t) {
        std::copy_n(fused_.data() + t * width + column, part.width,
                    part.values.data() + t * part.width);
      }
    });
    column += part.width;
  }
}

BlockPass DenseBlock::Run(BlockValue from, std::span<const float> values, BlockValue until) {
  BlockPass pass;
  pass.tokens = static_cast<int64_t>(values.size()) / WidthOf(from);
  pass[from].assign(values.begin(), values.end());
  Continue(pass, until);
  return pass;
}

void DenseBlock::Continue(BlockPass& pass, BlockValue until) {
  const auto has = [&pass](BlockValue value) { return !pass[value].empty(); };
  const bool attended =
      has(BlockValue::kAfterAttention) || has(BlockValue::kMlpInput) || has(BlockValue::kMlpHidden);
  Work([&] {
    if (!attended) AttentionPart(pass, until);
    if (until > BlockValue::kAttentionOutput) MlpPart(pass, until);
  });
}

void DenseBlock::AttentionPart(BlockPass& pass, BlockValue until) {
  const int64_t tokens = pass.tokens, rotary = config_.rotary_dims();
  FloatBuffer& input = pass[BlockValue::kAttentionInput];
  if (input.empty() && pass[BlockValue::kAttended].empty()) {
    const FloatBuffer& hidden = pass[BlockValue::kInput];
    if (is_encoder()) {
      input = hidden;
    } else {
      Normalize(names_.attention_norm, hidden, input);
    }
  }
  if (until == BlockValue::kAttentionInput) return;
  FloatBuffer& attended = pass[BlockValue::kAttended];
  if (attended.empty()) {
    input_.Set(input.data(), tokens, config_.hidden_size);
    ApplyAll(names_.qkv, input_, Of::kValues, QkvParts(pass.q, pass.k, pass.v));
    NormalizeHeads(names_.q_norm, pass.raw_q, pass.q);
    NormalizeHeads(names_.k_norm, pass.raw_k, pass.k);
    if (rope_ != nullptr) {
      Rotate(*rope_, rotary, tokens, attention_.heads, attention_.head_dim, false, pass.q.data());
      Rotate(*rope_, rotary, tokens, attention_.kv_heads, attention_.head_dim, false,
             pass.k.data());
    }
    attended.resize(pass.q.size());
    pass.softmax.resize(static_cast<size_t>(2 * attention_.heads * tokens));
    Attend(attention_, tokens, pass.q.data(), pass.k.data(), pass.v.data(), attended.data(),
           pass.softmax.data());
  }
  if (until == BlockValue::kAttended) return;
  hidden_.Set(attended.data(), tokens, WidthOf(BlockValue::kAttended));
  Apply(names_.o, hidden_, Of::kValues, pass[BlockValue::kAttentionOutput]);
}

void DenseBlock::MlpActivation(BlockPass& pass) {
  const FloatBuffer& input = pass[BlockValue::kMlpInput];
  FloatBuffer& hidden = pass[BlockValue::kMlpHidden];
  input_.Set(input.data(), pass.tokens, config_.hidden_size);
  ApplyAll(names_.gate_up, input_, Of::kValues, GateUpParts(pass.gate, pass.up));
  hidden.resize(pass.gate.size());
  const int64_t width = config_.intermediate_size;
  const float* up = is_encoder() ? nullptr : pass.up.data();
  ForRows(pass.tokens, [&](int64_t first, int64_t count) {
    const int64_t begin = first * width, end = begin + count * width;
    ActivateRow(activation_, pass.gate.data() + begin, up != nullptr ? up + begin : nullptr,
                end - begin, hidden.data() + begin);
  });
}

void DenseBlock::MlpPart(BlockPass& pass, BlockValue until) {
  FloatBuffer& after_attention = pass[BlockValue::kAfterAttention];
  FloatBuffer& input = pass[BlockValue::kMlpInput];
  const bool from_hidden = !pass[BlockValue::kMlpHidden].empty();
  if (after_attention.empty() && input.empty() && !from_hidden) {
    Add(pass[BlockValue::kInput], pass[BlockValue::kAttentionOutput], after_attention);
  }
  if (until == BlockValue::kAfterAttention) return;
  // Encoders take the MLP's residual after the norm.
  const bool needs_input = !from_hidden || (is_encoder() && until == BlockValue::kOutput);
  if (input.empty() && needs_input) {
    Normalize(is_encoder() ? names_.attention_norm : names_.mlp_norm, after_attention, input);
  }
  if (until == BlockValue::kMlpInput) return;
  if (!from_hidden) MlpActivation(pass);
  if (until == BlockValue::kMlpHidden) return;
  hidden_.Set(pass[BlockValue::kMlpHidden].data(), pass.tokens, config_.intermediate_size);
  Apply(names_.down, hidden_, Of::kValues, pass[BlockValue::kMlpOutput]);
  if (until == BlockValue::kMlpOutput) return;
  const FloatBuffer& output = pass[BlockValue::kMlpOutput];
  if (is_encoder()) {
    Add(input, output, pass.after_mlp);
    Normalize(names_.mlp_norm, pass.after_mlp, pass[BlockValue::kOutput]);
  } else {
    Add(after_attention, output, pass[BlockValue::kOutput]);
  }
}

}  // namespace quantd::calibration
