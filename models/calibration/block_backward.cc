// The backward half of DenseBlock: the chain rule by hand, from the block's output to its weights.
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "models/calibration/dense_block.h"

namespace quantd::calibration {

void DenseBlock::AddLinearGradients(const std::string& module, const std::vector<float>& x,
                                    const std::vector<float>& dy, int64_t tokens,
                                    BlockGradients& gradients) const {
  const int64_t rows = static_cast<int64_t>(dy.size()) / tokens;
  const int64_t cols = static_cast<int64_t>(x.size()) / tokens;
  if (const auto weight = gradients.find(module); weight != gradients.end()) {
    weight->second.resize(static_cast<size_t>(rows * cols));
    AddProduct(rows, cols, tokens, MatrixOperand{dy.data(), rows, 1}.Transposed(),
               {x.data(), cols, 1}, weight->second.data());
  }
  if (const auto bias = gradients.find(absl::StrCat(module, ".bias")); bias != gradients.end()) {
    bias->second.resize(static_cast<size_t>(rows));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) bias->second[r] += dy[t * rows + r];
    }
  }
}

void DenseBlock::AddNormParameters(const std::string& module, const std::vector<float>& x,
                                   const std::vector<float>& dy, int64_t tokens,
                                   BlockGradients& gradients) const {
  const auto weight = gradients.find(module);
  if (weight == gradients.end()) return;
  const auto width = static_cast<size_t>(config_.hidden_size);
  weight->second.resize(width);
  const auto bias = gradients.find(absl::StrCat(module, ".bias"));
  if (bias != gradients.end()) bias->second.resize(width);
  AddNormParameterGradients(NormArgs(module), tokens, x.data(), dy.data(), config_.hidden_size,
                            weight->second.data(),
                            bias != gradients.end() ? bias->second.data() : nullptr);
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
  AddLinearGradients(names_.down, pass[BlockValue::kMlpHidden], d_output, tokens, gradients);
  std::vector<float> d_gate(pass.gate.size());
  AddInputGradient(names_.down, d_output, tokens, d_gate);
  std::vector<float> d_up;
  if (!names_.up.empty()) d_up.resize(d_gate.size());
  const int64_t width = config_.intermediate_size;
  ForRows(tokens, [&](int64_t first, int64_t count) {
    const int64_t begin = first * width, end = begin + count * width;
    const float* gate = pass.gate.data() + begin;
    if (!d_up.empty()) {
      Activate(activation_, gate, end - begin, d_up.data() + begin);
      for (int64_t i = begin; i < end; ++i) {
        d_up[i] *= d_gate[i];
        d_gate[i] *= pass.up[i];
      }
    }
    MultiplyByDerivative(activation_, gate, end - begin, d_gate.data() + begin);
  });
  const std::vector<float>& input = pass[BlockValue::kMlpInput];
  AddLinearGradients(names_.gate, input, d_gate, tokens, gradients);
  AddInputGradient(names_.gate, d_gate, tokens, d_input);
  if (names_.up.empty()) return;
  AddLinearGradients(names_.up, input, d_up, tokens, gradients);
  AddInputGradient(names_.up, d_up, tokens, d_input);
}

void DenseBlock::AttentionBackward(const BlockPass& pass, const std::vector<float>& d_output,
                                   BlockGradients& gradients) const {
  const int64_t tokens = pass.tokens;
  const std::vector<float>& attended = pass[BlockValue::kAttended];
  AddLinearGradients(names_.o, attended, d_output, tokens, gradients);
  const bool needs_norm = !is_encoder() && gradients.contains(names_.attention_norm);
  bool needs_more = needs_norm;
  for (const std::string& module : {names_.q, names_.k, names_.v}) {
    needs_more = needs_more || gradients.contains(module) ||
                 gradients.contains(absl::StrCat(module, ".bias"));
  }
  if (!needs_more) return;
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
  AddLinearGradients(names_.q, input, d_q, tokens, gradients);
  AddLinearGradients(names_.k, input, d_k, tokens, gradients);
  AddLinearGradients(names_.v, input, d_v, tokens, gradients);
  if (!needs_norm) return;
  std::vector<float> d_input(input.size());
  AddInputGradient(names_.q, d_q, tokens, d_input);
  AddInputGradient(names_.k, d_k, tokens, d_input);
  AddInputGradient(names_.v, d_v, tokens, d_input);
  AddNormParameters(names_.attention_norm, pass[BlockValue::kInput], d_input, tokens, gradients);
}

void DenseBlock::Backward(const BlockPass& pass, std::span<const float> output,
                          BlockGradients& gradients) {
  const int64_t tokens = pass.tokens;
  // By the sum of the second residual; the MLP's output and its residual share it.
  std::vector<float> d_sum(output.begin(), output.end());
  if (is_encoder()) {
    std::vector<float> d_after(d_sum.size());
    AddNormGradients(names_.mlp_norm, pass.after_mlp, d_sum, tokens, d_after);
    AddNormParameters(names_.mlp_norm, pass.after_mlp, d_sum, tokens, gradients);
    d_sum = std::move(d_after);
  }
  // Encoders take the residual after the norm, decoders before it.
  std::vector<float> d_input = is_encoder() ? d_sum : std::vector<float>(d_sum.size());
  MlpBackward(pass, d_sum, d_input, gradients);
  std::vector<float> d_after_attention =
      is_encoder() ? std::vector<float>(d_sum.size()) : std::move(d_sum);
  const std::string& norm = is_encoder() ? names_.attention_norm : names_.mlp_norm;
  AddNormGradients(norm, pass[BlockValue::kAfterAttention], d_input, tokens, d_after_attention);
  AddNormParameters(norm, pass[BlockValue::kAfterAttention], d_input, tokens, gradients);
  AttentionBackward(pass, d_after_attention, gradients);
}

}  // namespace quantd::calibration
