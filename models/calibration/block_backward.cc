// The backward half of DenseBlock: the chain rule by hand, from the block's output to its weights.
#include <utility>

#include "core/parallel.h"
#include "models/calibration/dense_block.h"

namespace quantd::calibration {

void DenseBlock::AddWeightGradient(const std::string& module, const std::vector<float>& x,
                                   const std::vector<float>& dy, int64_t tokens,
                                   BlockGradients& gradients) const {
  const auto wanted = gradients.find(module);
  if (wanted == gradients.end()) return;
  const int64_t rows = static_cast<int64_t>(dy.size()) / tokens;
  const int64_t cols = static_cast<int64_t>(x.size()) / tokens;
  wanted->second.resize(static_cast<size_t>(rows * cols));
  AddProduct(rows, cols, tokens, MatrixOperand{dy.data(), rows, 1}.Transposed(),
             {x.data(), cols, 1}, wanted->second.data());
}

void DenseBlock::AddInputGradient(const std::string& module, const std::vector<float>& dy,
                                  int64_t tokens, std::vector<float>& dx) const {
  const int64_t rows = static_cast<int64_t>(dy.size()) / tokens;
  const int64_t cols = static_cast<int64_t>(dx.size()) / tokens;
  AddProduct(tokens, cols, rows, {dy.data(), rows, 1}, {Find(module, ".weight"), cols, 1},
             dx.data());
}

void DenseBlock::AddNormGradients(const std::string& module, const std::vector<float>& x,
                                  const std::vector<float>& dy, int64_t tokens,
                                  std::vector<float>& dx) const {
  const RowNormArgs norm = NormArgs(module);
  const int64_t width = config_.hidden_size;
  ParallelFor(tokens, [&](int64_t t) {
    AddNormGradient(norm, x.data() + t * width, dy.data() + t * width, width,
                    dx.data() + t * width);
  });
}

void DenseBlock::MlpBackward(const BlockPass& pass, const std::vector<float>& d_output,
                             std::vector<float>& d_input, BlockGradients& gradients) const {
  const int64_t tokens = pass.tokens;
  AddWeightGradient(names_.down, pass[BlockValue::kMlpHidden], d_output, tokens, gradients);
  std::vector<float> d_gate(pass.gate.size());
  AddInputGradient(names_.down, d_output, tokens, d_gate);
  std::vector<float> d_up;
  if (!names_.up.empty()) {
    d_up.resize(d_gate.size());
    Activate(activation_, pass.gate.data(), static_cast<int64_t>(d_up.size()), d_up.data());
    for (size_t i = 0; i < d_up.size(); ++i) {
      d_up[i] *= d_gate[i];
      d_gate[i] *= pass.up[i];
    }
  }
  MultiplyByDerivative(activation_, pass.gate.data(), static_cast<int64_t>(d_gate.size()),
                       d_gate.data());
  const std::vector<float>& input = pass[BlockValue::kMlpInput];
  AddWeightGradient(names_.gate, input, d_gate, tokens, gradients);
  AddInputGradient(names_.gate, d_gate, tokens, d_input);
  if (names_.up.empty()) return;
  AddWeightGradient(names_.up, input, d_up, tokens, gradients);
  AddInputGradient(names_.up, d_up, tokens, d_input);
}

void DenseBlock::AttentionBackward(const BlockPass& pass, const std::vector<float>& d_output,
                                   BlockGradients& gradients) const {
  const int64_t tokens = pass.tokens;
  const std::vector<float>& attended = pass[BlockValue::kAttended];
  AddWeightGradient(names_.o, attended, d_output, tokens, gradients);
  if (!gradients.contains(names_.q) && !gradients.contains(names_.k) &&
      !gradients.contains(names_.v)) {
    return;
  }
  std::vector<float> d_attended(attended.size());
  AddInputGradient(names_.o, d_output, tokens, d_attended);
  std::vector<float> d_q(pass.q.size()), d_k(pass.k.size()), d_v(pass.v.size());
  AttendBackward(attention_, tokens, pass.q.data(), pass.k.data(), pass.v.data(), attended.data(),
                 d_attended.data(), d_q.data(), d_k.data(), d_v.data());
  if (rope_ != nullptr) {
    Rotate(*rope_, tokens, attention_.heads, attention_.head_dim, true, d_q.data());
    Rotate(*rope_, tokens, attention_.kv_heads, attention_.head_dim, true, d_k.data());
  }
  const std::vector<float>& input = pass[BlockValue::kAttentionInput];
  AddWeightGradient(names_.q, input, d_q, tokens, gradients);
  AddWeightGradient(names_.k, input, d_k, tokens, gradients);
  AddWeightGradient(names_.v, input, d_v, tokens, gradients);
}

void DenseBlock::Backward(const BlockPass& pass, std::span<const float> output,
                          BlockGradients& gradients) {
  const int64_t tokens = pass.tokens;
  // By the sum of the second residual; the MLP's output and its residual share it.
  std::vector<float> d_sum(output.begin(), output.end());
  if (is_encoder()) {
    std::vector<float> d_after(d_sum.size());
    AddNormGradients(names_.mlp_norm, pass.after_mlp, d_sum, tokens, d_after);
    d_sum = std::move(d_after);
  }
  // Encoders take the residual after the norm, decoders before it.
  std::vector<float> d_input = is_encoder() ? d_sum : std::vector<float>(d_sum.size());
  MlpBackward(pass, d_sum, d_input, gradients);
  std::vector<float> d_after_attention =
      is_encoder() ? std::vector<float>(d_sum.size()) : std::move(d_sum);
  AddNormGradients(is_encoder() ? names_.attention_norm : names_.mlp_norm, pass.after_attention,
                   d_input, tokens, d_after_attention);
  AttentionBackward(pass, d_after_attention, gradients);
}

}  // namespace quantd::calibration
