// DenseBlock's change: what small changes of weights do to the output of attention or of the MLP.
#include <algorithm>

#include "models/calibration/dense_block.h"

namespace quantd::calibration {
namespace {

// values += more, by the calling thread's team.
void AddTo(const FloatBuffer& more, int64_t rows, FloatBuffer& values) {
  const int64_t width = static_cast<int64_t>(values.size()) / rows;
  ForRows(rows, [&](int64_t first, int64_t count) {
    for (int64_t i = first * width; i < (first + count) * width; ++i) values[i] += more[i];
  });
}

}  // namespace

void DenseBlock::ChangeHeads(const std::string& norm, const FloatBuffer& raw,
                             const FloatBuffer& rotated, int64_t heads, int64_t tokens,
                             FloatBuffer& change) const {
  const auto rotate = [&] {
    if (rope_ == nullptr) return;
    Rotate(*rope_, config_.rotary_dims(), tokens, heads, attention_.head_dim, false, change.data());
  };
  if (norm.empty()) {  // a rotation's change is the change, rotated
    rotate();
    AddTo(rotated, tokens, change);
    return;
  }
  AddTo(raw, tokens, change);
  Normalize(norm, change, change);
  rotate();
}

void DenseBlock::AttendedChange(const BlockPass& reference) {
  const int64_t tokens = reference.tokens;
  const FloatBuffer& attended = reference[BlockValue::kAttended];
  input_.Set(reference[BlockValue::kAttentionInput].data(), tokens, config_.hidden_size);
  ApplyAll(names_.qkv, input_, Of::kChanges, QkvParts(d_q_, d_k_, d_v_));
  ChangeHeads(names_.q_norm, reference.raw_q, reference.q, attention_.heads, tokens, d_q_);
  ChangeHeads(names_.k_norm, reference.raw_k, reference.k, attention_.kv_heads, tokens, d_k_);
  AddTo(reference.v, tokens, d_v_);
  d_hidden_.resize(attended.size());
  d_gated_.resize(static_cast<size_t>(2 * attention_.heads * tokens));
  Attend(attention_, tokens, d_q_.data(), d_k_.data(), d_v_.data(), d_hidden_.data(),
         d_gated_.data());
  const int64_t width = WidthOf(BlockValue::kAttended);
  ForRows(tokens, [&](int64_t first, int64_t count) {
    for (int64_t i = first * width; i < (first + count) * width; ++i) d_hidden_[i] -= attended[i];
  });
}

void DenseBlock::MlpHiddenChange(const BlockPass& reference) {
  const bool is_gated = !is_encoder();
  const int64_t width = config_.intermediate_size;
  input_.Set(reference[BlockValue::kMlpInput].data(), reference.tokens, config_.hidden_size);
  ApplyAll(names_.gate_up, input_, Of::kChanges, GateUpParts(d_hidden_, d_gated_));
  ForRows(reference.tokens, [&](int64_t first, int64_t count) {
    thread_local FloatBuffer before;
    before.resize(static_cast<size_t>(width));
    for (int64_t begin = first * width; begin < (first + count) * width; begin += width) {
      const float* gate = reference.gate.data() + begin;
      const float* up = is_gated ? reference.up.data() + begin : nullptr;
      float* hidden = d_hidden_.data() + begin;
      float* changed_up = is_gated ? d_gated_.data() + begin : nullptr;
      ActivateRow(activation_, gate, up, width, before.data());
      for (int64_t i = 0; i < width; ++i) hidden[i] += gate[i];
      for (int64_t i = 0; is_gated && i < width; ++i) changed_up[i] += up[i];
      ActivateRow(activation_, hidden, changed_up, width, hidden);
      for (int64_t i = 0; i < width; ++i) hidden[i] -= before[i];
    }
  });
}

void DenseBlock::Change(const BlockPass& reference, BlockValue from, BlockValue until,
                        FloatBuffer& change) {
  Work([&] {
    const float* values = reference[from].data();
    if (from == BlockValue::kAttentionInput) AttendedChange(reference);
    if (from == BlockValue::kMlpInput) MlpHiddenChange(reference);
    const bool of_mlp = until == BlockValue::kMlpOutput;
    const BlockValue read = of_mlp ? BlockValue::kMlpHidden : BlockValue::kAttended;
    hidden_.Set(from == read ? values : d_hidden_.data(), reference.tokens, WidthOf(read));
    Apply(of_mlp ? names_.down : names_.o, hidden_, Of::kChanges, change);
  });
}

}  // namespace quantd::calibration
