// A decoder block small enough to be written out here, for solvers that work on a whole block:
// norms without the division, attention that copies its values, a bilinear MLP.
#ifndef QUANTD_TESTS_QUANTIZERS_TOY_BLOCK_H_
#define QUANTD_TESTS_QUANTIZERS_TOY_BLOCK_H_

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/calibrated_block.h"
#include "scratch_sink.h"

namespace quantd {

using Rows = FloatBuffer;  // [tokens, width]
constexpr int64_t kHidden = 64;
constexpr int64_t kMlp = 128;
inline const std::string kPrefix = "model.layers.3.";

inline float Noise(int64_t i) {
  const double wave = std::sin(static_cast<double>(i) * 12.9898) * 43758.5453;
  return static_cast<float>(wave - std::floor(wave) - 0.5);
}

inline Rows Multiply(std::span<const float> x, std::span<const float> w, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(w.size()) / cols;
  const int64_t tokens = static_cast<int64_t>(x.size()) / cols;
  Rows out(static_cast<size_t>(tokens * rows), 0.0f);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < cols; ++c) sum += double{x[t * cols + c]} * w[r * cols + c];
      out[t * rows + r] = static_cast<float>(sum);
    }
  }
  return out;
}

class ToyBlock : public CalibratedBlock {
 public:
  explicit ToyBlock(bool grouped_queries = false) {
    const int64_t values = grouped_queries ? kHidden / 2 : kHidden;
    AddLinear("self_attn.q_proj", kHidden, kHidden, BlockValue::kAttentionInput);
    AddLinear("self_attn.k_proj", values, kHidden, BlockValue::kAttentionInput);
    AddLinear("self_attn.v_proj", values, kHidden, BlockValue::kAttentionInput);
    AddLinear("self_attn.o_proj", kHidden, kHidden, BlockValue::kAttended);
    AddLinear("mlp.gate_proj", kMlp, kHidden, BlockValue::kMlpInput);
    AddLinear("mlp.up_proj", kMlp, kHidden, BlockValue::kMlpInput);
    AddLinear("mlp.down_proj", kHidden, kMlp, BlockValue::kMlpHidden);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      Rows& weight = parameters_[absl::StrCat(kPrefix, norm, ".weight")];
      for (int64_t i = 0; i < kHidden; ++i) weight.push_back(1 + 0.5f * Noise(i + 77));
    }
    Rows& bias = parameters_[kPrefix + "self_attn.v_proj.bias"];
    for (int64_t i = 0; i < values; ++i) bias.push_back(0.1f * Noise(i + 1234));
  }

  bool is_encoder() const override { return false; }
  const std::vector<BlockLinear>& linears() const override { return linears_; }
  std::vector<std::string> norms() const override {
    return {kPrefix + "input_layernorm", kPrefix + "post_attention_layernorm"};
  }
  std::span<float> Parameter(absl::string_view name) override {
    const auto found = parameters_.find(std::string(name));
    return found == parameters_.end() ? std::span<float>() : std::span<float>(found->second);
  }

  BlockPass Run(BlockValue from, std::span<const float> values, BlockValue until) override {
    BlockPass pass;
    int64_t width = kHidden;
    if (from == BlockValue::kMlpHidden) width = kMlp;
    pass.tokens = static_cast<int64_t>(values.size()) / width;
    pass[from].assign(values.begin(), values.end());
    Continue(pass, until);
    return pass;
  }

  void Continue(BlockPass& pass, BlockValue until) override {
    int last = 0;
    for (int place = 0; place < kBlockValues; ++place) {
      if (!pass[static_cast<BlockValue>(place)].empty()) last = place;
    }
    for (int place = last + 1; place <= static_cast<int>(until); ++place) {
      Compute(static_cast<BlockValue>(place), pass);
    }
  }

  void Change(const BlockPass& reference, BlockValue from, BlockValue until,
              FloatBuffer& change) override {
    Rows changed = reference[from];
    if (from == BlockValue::kAttentionInput) changed = Spread(Linear("self_attn.v_proj", changed));
    if (from == BlockValue::kMlpInput) {
      Rows gate = Linear("mlp.gate_proj", changed), up = Linear("mlp.up_proj", changed);
      changed = std::move(gate);
      for (size_t i = 0; i < changed.size(); ++i) {
        changed[i] = (reference.gate[i] + changed[i]) * (reference.up[i] + up[i]) -
                     reference.gate[i] * reference.up[i];
      }
    }
    const bool of_mlp = until == BlockValue::kMlpOutput;
    change = Linear(of_mlp ? "mlp.down_proj" : "self_attn.o_proj", changed);
  }

  // Multiplies float32 always, and remembers what it was told.
  void SetRounding(const BlockRounding& rounding) override {
    roundings_.push_back(rounding.linears);
  }
  const std::vector<std::optional<ProductRounding>>& roundings() const { return roundings_; }

  void Backward(const BlockPass& pass, FloatBuffer output, BlockGradients& gradients,
                bool) override {
    const auto at = [&](BlockValue value) { return pass[value]; };
    const Rows grad(output.begin(), output.end());
    for (const BlockLinear& linear : linears_) {
      const auto found = gradients.find(linear.module);
      if (found == gradients.end()) continue;
      found->second.resize(static_cast<size_t>(linear.rows * linear.cols), 0.0f);
    }
    AddOuter("mlp.down_proj", grad, at(BlockValue::kMlpHidden), gradients);
    const Rows hidden = Back("mlp.down_proj", grad);
    Rows gate(hidden), up(hidden);
    for (size_t i = 0; i < hidden.size(); ++i) {
      gate[i] = hidden[i] * pass.up[i];
      up[i] = hidden[i] * pass.gate[i];
    }
    AddOuter("mlp.gate_proj", gate, at(BlockValue::kMlpInput), gradients);
    AddOuter("mlp.up_proj", up, at(BlockValue::kMlpInput), gradients);
    const Rows a = Back("mlp.gate_proj", gate), b = Back("mlp.up_proj", up);
    Rows residual(grad);
    const Rows& norm = parameters_.at(kPrefix + "post_attention_layernorm.weight");
    for (size_t i = 0; i < residual.size(); ++i) {
      residual[i] += (a[i] + b[i]) * norm[i % kHidden];
    }
    AddOuter("self_attn.o_proj", residual, at(BlockValue::kAttended), gradients);
    AddOuter("self_attn.v_proj", Back("self_attn.o_proj", residual),
             at(BlockValue::kAttentionInput), gradients);
  }

 private:
  void AddLinear(const std::string& name, int64_t rows, int64_t cols, BlockValue input) {
    linears_.push_back({kPrefix + name, rows, cols, input});
    Rows& weight = parameters_[kPrefix + name + ".weight"];
    for (int64_t i = 0; i < rows * cols; ++i) {
      weight.push_back(0.3f * Noise(i + 1000 * static_cast<int64_t>(linears_.size())));
    }
  }

  std::span<const float> Weight(const std::string& name) {
    return Parameter(kPrefix + name + ".weight");
  }
  Rows Linear(const std::string& name, const Rows& x) {
    for (const BlockLinear& linear : linears_) {
      if (linear.module == kPrefix + name) return Multiply(x, Weight(name), linear.cols);
    }
    return {};
  }
  Rows Normed(const std::string& name, const Rows& x) {
    Rows out(x);
    const std::span<const float> weight = Weight(name);
    for (size_t i = 0; i < out.size(); ++i) out[i] *= weight[i % weight.size()];
    return out;
  }

  // Values of each head of queries.
  Rows Spread(const Rows& v) {
    const size_t width = Parameter(kPrefix + "self_attn.v_proj.bias").size();
    Rows out;
    for (size_t i = 0; i < v.size() / width * kHidden; ++i) {
      out.push_back(v[i / kHidden * width + i % kHidden % width]);
    }
    return out;
  }

  void Compute(BlockValue place, BlockPass& pass) {
    Rows& out = pass[place];
    switch (place) {
      case BlockValue::kInput:
        break;
      case BlockValue::kAttentionInput:
        out = Normed("input_layernorm", pass[BlockValue::kInput]);
        break;
      case BlockValue::kAttended: {
        Rows v = Linear("self_attn.v_proj", pass[BlockValue::kAttentionInput]);
        const std::span<const float> bias = Parameter(kPrefix + "self_attn.v_proj.bias");
        for (size_t i = 0; i < v.size(); ++i) v[i] += bias[i % bias.size()];
        out = Spread(v);
        break;
      }
      case BlockValue::kAttentionOutput:
        out = Linear("self_attn.o_proj", pass[BlockValue::kAttended]);
        break;
      case BlockValue::kAfterAttention:
        out = pass[BlockValue::kInput];
        for (size_t i = 0; i < out.size(); ++i) out[i] += pass[BlockValue::kAttentionOutput][i];
        break;
      case BlockValue::kMlpInput:
        out = Normed("post_attention_layernorm", pass[BlockValue::kAfterAttention]);
        break;
      case BlockValue::kMlpHidden:
        pass.gate = Linear("mlp.gate_proj", pass[BlockValue::kMlpInput]);
        pass.up = Linear("mlp.up_proj", pass[BlockValue::kMlpInput]);
        out = pass.gate;
        for (size_t i = 0; i < out.size(); ++i) out[i] *= pass.up[i];
        break;
      case BlockValue::kMlpOutput:
        out = Linear("mlp.down_proj", pass[BlockValue::kMlpHidden]);
        break;
      case BlockValue::kOutput:
        out = pass[BlockValue::kAfterAttention];
        for (size_t i = 0; i < out.size(); ++i) out[i] += pass[BlockValue::kMlpOutput][i];
        break;
    }
  }

  // gradient of the weight: grad^T x.
  void AddOuter(const std::string& name, const Rows& grad, const Rows& x,
                BlockGradients& gradients) {
    const auto found = gradients.find(kPrefix + name);
    if (found == gradients.end()) return;
    for (const BlockLinear& linear : linears_) {
      if (linear.module != kPrefix + name) continue;
      const int64_t tokens = static_cast<int64_t>(x.size()) / linear.cols;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < linear.rows; ++r) {
          for (int64_t c = 0; c < linear.cols; ++c) {
            found->second[r * linear.cols + c] +=
                grad[t * linear.rows + r] * x[t * linear.cols + c];
          }
        }
      }
    }
  }
  // grad W.
  Rows Back(const std::string& name, const Rows& grad) {
    for (const BlockLinear& linear : linears_) {
      if (linear.module != kPrefix + name) continue;
      const std::span<const float> w = Weight(name);
      Rows transposed(w.size(), 0.0f);
      for (int64_t r = 0; r < linear.rows; ++r) {
        for (int64_t c = 0; c < linear.cols; ++c) {
          transposed[c * linear.rows + r] = w[r * linear.cols + c];
        }
      }
      return Multiply(grad, transposed, linear.rows);
    }
    return {};
  }

  std::vector<std::optional<ProductRounding>> roundings_;
  std::vector<BlockLinear> linears_;
  std::map<std::string, Rows> parameters_;
};

// Two sequences; some channels are much larger than the others, as in language models.
class ToyInputs : public BlockInputs {
 public:
  int64_t sequences() const override { return 2; }
  int64_t tokens(int64_t sequence) const override { return 24 + sequence; }
  absl::StatusOr<FloatBuffer> Read(int64_t sequence, bool) const override {
    Rows values;
    for (int64_t i = 0; i < tokens(sequence) * kHidden; ++i) {
      values.push_back(Noise(i + 5000 * sequence) * (i % kHidden % 16 == 3 ? 8.0f : 0.5f));
    }
    return values;
  }
  SequenceStore Store(const std::string&, uint64_t) const override { return {}; }
  bool has_targets() const override { return false; }
  absl::StatusOr<FloatBuffer> ReadTarget(int64_t) const override {
    return absl::FailedPreconditionError("there are none");
  }
};

// The same where solvers keep nothing in memory.
class SpilledInputs final : public ToyInputs {
 public:
  SequenceStore Store(const std::string& name, uint64_t) const override { return {sink_, name, 0}; }
  const ScratchSink& sink() const { return sink_; }

 private:
  mutable ScratchSink sink_;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_TOY_BLOCK_H_
