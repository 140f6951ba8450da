// The backward half of DenseBlock: the chain rule by hand, from the block's output to its weights.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "models/calibration/dense_block.h"

namespace quantd::calibration {

void DenseBlock::AddLinearGradients(const std::string& module, TokenOperand& x, TokenOperand& dy,
                                    BlockGradients& gradients) {
  const int64_t rows = dy.width();
  if (const auto weight = gradients.find(module); weight != gradients.end()) {
    const bool add = !weight->second.empty();
    weight->second.resize(static_cast<size_t>(rows * x.width()));
    products_.WeightGradient(dy, x, add, weight->second.data());
  }
  if (const auto bias = gradients.find(absl::StrCat(module, ".bias")); bias != gradients.end()) {
    bias->second.resize(static_cast<size_t>(rows), 0.0f);
    const float* values = dy.plain().data;
    for (int64_t t = 0; t < dy.tokens(); ++t) {
      for (int64_t r = 0; r < rows; ++r) bias->second[r] += values[t * rows + r];
    }
  }
}

void DenseBlock::AddNormParameters(const std::string& module, const FloatBuffer& x,
                                   const FloatBuffer& dy, BlockGradients& gradients) const {
  const auto weight = gradients.find(module);
  if (weight == gradients.end()) return;
  const int64_t width = NormWidth(module);
  weight->second.resize(static_cast<size_t>(width), 0.0f);
  const auto bias = gradients.find(absl::StrCat(module, ".bias"));
  if (bias != gradients.end()) bias->second.resize(static_cast<size_t>(width), 0.0f);
  const int64_t rows = static_cast<int64_t>(x.size()) / width;
  AddNormParameterGradients(NormArgs(module), rows, x.data(), dy.data(), width,
                            weight->second.data(),
                            bias != gradients.end() ? bias->second.data() : nullptr);
}

void DenseBlock::AddNormGradients(const std::string& module, const FloatBuffer& x,
                                  const FloatBuffer& dy, FloatBuffer& dx) const {
  const RowNormArgs norm = NormArgs(module);
  const int64_t width = NormWidth(module);
  ForRows(static_cast<int64_t>(x.size()) / width, [&](int64_t first, int64_t count) {
    for (int64_t at = first * width; at < (first + count) * width; at += width) {
      AddNormGradient(norm, x.data() + at, dy.data() + at, width, dx.data() + at);
    }
  });
}

void DenseBlock::HeadNormBackward(const std::string& module, const FloatBuffer& raw,
                                  FloatBuffer& d_heads, BlockGradients& gradients) const {
  if (module.empty()) return;
  AddNormParameters(module, raw, d_heads, gradients);
  FloatBuffer d_raw(raw.size(), 0.0f);
  AddNormGradients(module, raw, d_heads, d_raw);
  d_heads = std::move(d_raw);
}

void DenseBlock::BackwardAll(const std::vector<std::string>& modules, TokenOperand& x,
                             const std::vector<Part>& parts, bool add, float* d_input,
                             BlockGradients& gradients) {
  const auto backward = [&](const std::string& module, const FloatBuffer& gradient) {
    const LinearWeight weight = WeightOf(module);
    d_output_.Set(gradient.data(), x.tokens(), weight.rows);
    AddLinearGradients(module, x, d_output_, gradients);
    if (d_input != nullptr) products_.InputGradient(d_output_, weight, add, d_input);
    add = true;
  };
  if (modules.size() == parts.size()) {
    for (size_t i = 0; i < parts.size(); ++i) backward(modules[i], parts[i].values);
    return;
  }
  const int64_t width = WeightOf(modules.front()).rows;
  fused_.resize(static_cast<size_t>(x.tokens() * width));
  int64_t column = 0;
  for (const Part& part : parts) {
    ForRows(x.tokens(), [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t) {
        std::copy_n(part.values.data() + t * part.width, part.width,
                    fused_.data() + t * width + column);
      }
    });
    column += part.width;
  }
  backward(modules.front(), fused_);
}

void DenseBlock::MlpBackward(const BlockPass& pass, const FloatBuffer& d_output,
                             FloatBuffer& d_input, BlockGradients& gradients) {
  const int64_t tokens = pass.tokens, width = config_.intermediate_size;
  hidden_.Set(pass[BlockValue::kMlpHidden].data(), tokens, width);
  d_output_.Set(d_output.data(), tokens, config_.hidden_size);
  AddLinearGradients(names_.down, hidden_, d_output_, gradients);
  const bool is_gated = !is_encoder();
  FloatBuffer &d_gate = d_hidden_, &d_up = d_gated_;
  d_gate.resize(pass.gate.size());
  d_up.resize(is_gated ? d_gate.size() : 0);
  products_.InputGradient(d_output_, WeightOf(names_.down), false, d_gate.data());
  ForRows(tokens, [&](int64_t first, int64_t count) {
    const int64_t begin = first * width, end = begin + count * width;
    ActivationGradient(activation_, pass.gate.data() + begin,
                       is_gated ? pass.up.data() + begin : nullptr, end - begin,
                       d_gate.data() + begin, is_gated ? d_up.data() + begin : nullptr);
  });
  input_.Set(pass[BlockValue::kMlpInput].data(), tokens, config_.hidden_size);
  BackwardAll(names_.gate_up, input_, GateUpParts(d_gate, d_up), is_encoder(), d_input.data(),
              gradients);
}

void DenseBlock::AttentionBackward(const BlockPass& pass, const FloatBuffer& d_output,
                                   BlockGradients& gradients) {
  const int64_t tokens = pass.tokens;
  const FloatBuffer& attended = pass[BlockValue::kAttended];
  hidden_.Set(attended.data(), tokens, WidthOf(BlockValue::kAttended));
  d_output_.Set(d_output.data(), tokens, config_.hidden_size);
  AddLinearGradients(names_.o, hidden_, d_output_, gradients);
  const bool needs_norm = !is_encoder() && gradients.contains(names_.attention_norm);
  bool needs_more =
      needs_norm || gradients.contains(names_.q_norm) || gradients.contains(names_.k_norm);
  for (const std::string& module : names_.qkv) {
    needs_more = needs_more || gradients.contains(module) ||
                 gradients.contains(absl::StrCat(module, ".bias"));
  }
  if (!needs_more) return;
  FloatBuffer& d_attended = d_hidden_;
  d_attended.resize(attended.size());
  products_.InputGradient(d_output_, WeightOf(names_.o), false, d_attended.data());
  d_q_.resize(pass.q.size());
  d_k_.resize(pass.k.size());
  d_v_.resize(pass.v.size());
  AttendBackward(
      attention_, tokens,
      {pass.q.data(), pass.k.data(), pass.v.data(), attended.data(), pass.softmax.data()},
      d_attended.data(), key_sums_, d_q_.data(), d_k_.data(), d_v_.data());
  if (rope_ != nullptr) {
    const int64_t rotary = config_.rotary_dims();
    Rotate(*rope_, rotary, tokens, attention_.heads, attention_.head_dim, true, d_q_.data());
    Rotate(*rope_, rotary, tokens, attention_.kv_heads, attention_.head_dim, true, d_k_.data());
  }
  HeadNormBackward(names_.q_norm, pass.raw_q, d_q_, gradients);
  HeadNormBackward(names_.k_norm, pass.raw_k, d_k_, gradients);
  const FloatBuffer& input = pass[BlockValue::kAttentionInput];
  input_.Set(input.data(), tokens, config_.hidden_size);
  FloatBuffer d_input(needs_norm ? input.size() : 0, 0.0f);
  BackwardAll(names_.qkv, input_, QkvParts(d_q_, d_k_, d_v_), true,
              needs_norm ? d_input.data() : nullptr, gradients);
  if (!needs_norm) return;
  AddNormParameters(names_.attention_norm, pass[BlockValue::kInput], d_input, gradients);
}

void DenseBlock::Backward(const BlockPass& pass, FloatBuffer output, BlockGradients& gradients,
                          bool more) {
  Work([&] {
    BackwardInPlace(pass, output, gradients);
    if (!more) products_.FinishWeightGradients();
  });
}

void DenseBlock::BackwardInPlace(const BlockPass& pass, FloatBuffer& d_sum,
                                 BlockGradients& gradients) {
  if (is_encoder()) {
    FloatBuffer d_after(d_sum.size(), 0.0f);
    AddNormGradients(names_.mlp_norm, pass.after_mlp, d_sum, d_after);
    AddNormParameters(names_.mlp_norm, pass.after_mlp, d_sum, gradients);
    d_sum = std::move(d_after);
  }
  // Encoders take the residual after the norm, decoders before it.
  FloatBuffer d_input = is_encoder() ? d_sum : FloatBuffer(d_sum.size());
  MlpBackward(pass, d_sum, d_input, gradients);
  FloatBuffer d_after_attention = is_encoder() ? FloatBuffer(d_sum.size(), 0.0f) : std::move(d_sum);
  const std::string& norm = is_encoder() ? names_.attention_norm : names_.mlp_norm;
  AddNormGradients(norm, pass[BlockValue::kAfterAttention], d_input, d_after_attention);
  AddNormParameters(norm, pass[BlockValue::kAfterAttention], d_input, gradients);
  AttentionBackward(pass, d_after_attention, gradients);
}

}  // namespace quantd::calibration
