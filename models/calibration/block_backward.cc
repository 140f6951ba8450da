// The backward half of DenseBlock: the chain rule by hand, from the block's output to its weights.
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "models/calibration/dense_block.h"

namespace quantd::calibration {

void DenseBlock::AddLinearGradients(const std::string& module, TokenOperand& x, TokenOperand& dy,
                                    BlockGradients& gradients) {
  const int64_t rows = dy.width();
  if (const auto weight = gradients.find(module); weight != gradients.end()) {
    weight->second.resize(static_cast<size_t>(rows * x.width()), 0.0f);
    products_.AddWeightGradient(dy, x, weight->second.data());
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
                                   const FloatBuffer& dy, int64_t tokens,
                                   BlockGradients& gradients) const {
  const auto weight = gradients.find(module);
  if (weight == gradients.end()) return;
  const auto width = static_cast<size_t>(config_.hidden_size);
  weight->second.resize(width, 0.0f);
  const auto bias = gradients.find(absl::StrCat(module, ".bias"));
  if (bias != gradients.end()) bias->second.resize(width, 0.0f);
  AddNormParameterGradients(NormArgs(module), tokens, x.data(), dy.data(), config_.hidden_size,
                            weight->second.data(),
                            bias != gradients.end() ? bias->second.data() : nullptr);
}

void DenseBlock::AddNormGradients(const std::string& module, const FloatBuffer& x,
                                  const FloatBuffer& dy, int64_t tokens, FloatBuffer& dx) const {
  const RowNormArgs norm = NormArgs(module);
  const int64_t width = config_.hidden_size;
  ForRows(tokens, [&](int64_t first, int64_t count) {
    for (int64_t at = first * width; at < (first + count) * width; at += width) {
      AddNormGradient(norm, x.data() + at, dy.data() + at, width, dx.data() + at);
    }
  });
}

void DenseBlock::MlpBackward(const BlockPass& pass, const FloatBuffer& d_output,
                             FloatBuffer& d_input, BlockGradients& gradients) {
  const int64_t tokens = pass.tokens, width = config_.intermediate_size;
  hidden_.Set(pass[BlockValue::kMlpHidden].data(), tokens, width);
  d_output_.Set(d_output.data(), tokens, config_.hidden_size);
  AddLinearGradients(names_.down, hidden_, d_output_, gradients);
  const bool is_gated = !names_.up.empty();
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
  d_gate_.Set(d_gate.data(), tokens, width);
  AddLinearGradients(names_.gate, input_, d_gate_, gradients);
  products_.InputGradient(d_gate_, WeightOf(names_.gate), is_encoder(), d_input.data());
  if (!is_gated) return;
  d_up_.Set(d_up.data(), tokens, width);
  AddLinearGradients(names_.up, input_, d_up_, gradients);
  products_.InputGradient(d_up_, WeightOf(names_.up), true, d_input.data());
}

void DenseBlock::AttentionBackward(const BlockPass& pass, const FloatBuffer& d_output,
                                   BlockGradients& gradients) {
  const int64_t tokens = pass.tokens;
  const FloatBuffer& attended = pass[BlockValue::kAttended];
  hidden_.Set(attended.data(), tokens, WidthOf(BlockValue::kAttended));
  d_output_.Set(d_output.data(), tokens, config_.hidden_size);
  AddLinearGradients(names_.o, hidden_, d_output_, gradients);
  const bool needs_norm = !is_encoder() && gradients.contains(names_.attention_norm);
  bool needs_more = needs_norm;
  for (const std::string& module : {names_.q, names_.k, names_.v}) {
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
      d_attended.data(), d_q_.data(), d_k_.data(), d_v_.data());
  if (rope_ != nullptr) {
    Rotate(*rope_, tokens, attention_.heads, attention_.head_dim, true, d_q_.data());
    Rotate(*rope_, tokens, attention_.kv_heads, attention_.head_dim, true, d_k_.data());
  }
  const FloatBuffer& input = pass[BlockValue::kAttentionInput];
  input_.Set(input.data(), tokens, config_.hidden_size);
  FloatBuffer d_input(needs_norm ? input.size() : 0, 0.0f);
  const std::pair<const std::string&, const FloatBuffer&> readers[] = {
      {names_.q, d_q_}, {names_.k, d_k_}, {names_.v, d_v_}};
  for (const auto& [module, gradient] : readers) {
    const LinearWeight weight = WeightOf(module);
    d_output_.Set(gradient.data(), tokens, weight.rows);
    AddLinearGradients(module, input_, d_output_, gradients);
    if (needs_norm) products_.InputGradient(d_output_, weight, true, d_input.data());
  }
  if (!needs_norm) return;
  AddNormParameters(names_.attention_norm, pass[BlockValue::kInput], d_input, tokens, gradients);
}

void DenseBlock::Backward(const BlockPass& pass, std::span<const float> output,
                          BlockGradients& gradients) {
  Work([&] { BackwardInPlace(pass, output, gradients); });
}

void DenseBlock::BackwardInPlace(const BlockPass& pass, std::span<const float> output,
                                 BlockGradients& gradients) {
  const int64_t tokens = pass.tokens;
  // By the sum of the second residual; the MLP's output and its residual share it.
  FloatBuffer d_sum(output.begin(), output.end());
  if (is_encoder()) {
    FloatBuffer d_after(d_sum.size(), 0.0f);
    AddNormGradients(names_.mlp_norm, pass.after_mlp, d_sum, tokens, d_after);
    AddNormParameters(names_.mlp_norm, pass.after_mlp, d_sum, tokens, gradients);
    d_sum = std::move(d_after);
  }
  // Encoders take the residual after the norm, decoders before it.
  FloatBuffer d_input = is_encoder() ? d_sum : FloatBuffer(d_sum.size());
  MlpBackward(pass, d_sum, d_input, gradients);
  FloatBuffer d_after_attention = is_encoder() ? FloatBuffer(d_sum.size(), 0.0f) : std::move(d_sum);
  const std::string& norm = is_encoder() ? names_.attention_norm : names_.mlp_norm;
  AddNormGradients(norm, pass[BlockValue::kAfterAttention], d_input, tokens, d_after_attention);
  AddNormParameters(norm, pass[BlockValue::kAfterAttention], d_input, tokens, gradients);
  AttentionBackward(pass, d_after_attention, gradients);
}

}  // namespace quantd::calibration
