// Solvers that work on a whole block, on a block small enough to be written out here: norms without
// the division, attention that copies its values, a bilinear MLP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/method.h"
#include "quantizers/methods/autoround_block.h"
#include "quantizers/methods/awq_block.h"

namespace quantd {
namespace {

using testing::HasSubstr;

using Rows = std::vector<float>;  // [tokens, width]
constexpr int64_t kHidden = 64;
constexpr int64_t kMlp = 128;
const std::string kPrefix = "model.layers.3.";

float Noise(int64_t i) {
  const double wave = std::sin(static_cast<double>(i) * 12.9898) * 43758.5453;
  return static_cast<float>(wave - std::floor(wave) - 0.5);
}

Rows Multiply(std::span<const float> x, std::span<const float> w, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(w.size()) / cols;
  const int64_t tokens = static_cast<int64_t>(x.size()) / cols;
  Rows out(static_cast<size_t>(tokens * rows));
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

  void SetBFloat16(bool) override {}  // float32 always

  void Backward(const BlockPass& pass, std::span<const float> output,
                BlockGradients& gradients) override {
    const auto at = [&](BlockValue value) { return pass[value]; };
    const Rows grad(output.begin(), output.end());
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

  void Compute(BlockValue place, BlockPass& pass) {
    Rows& out = pass[place];
    switch (place) {
      case BlockValue::kInput:
        break;
      case BlockValue::kAttentionInput:
        out = Normed("input_layernorm", pass[BlockValue::kInput]);
        break;
      case BlockValue::kAttended: {
        const Rows v = Linear("self_attn.v_proj", pass[BlockValue::kAttentionInput]);
        const std::span<const float> bias = Parameter(kPrefix + "self_attn.v_proj.bias");
        const size_t width = bias.size();
        for (int64_t i = 0; i < pass.tokens * kHidden; ++i) {
          const size_t c = static_cast<size_t>(i % kHidden) % width;
          out.push_back(v[static_cast<size_t>(i / kHidden) * width + c] + bias[c]);
        }
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
      Rows transposed(w.size());
      for (int64_t r = 0; r < linear.rows; ++r) {
        for (int64_t c = 0; c < linear.cols; ++c) {
          transposed[c * linear.rows + r] = w[r * linear.cols + c];
        }
      }
      return Multiply(grad, transposed, linear.rows);
    }
    return {};
  }

  std::vector<BlockLinear> linears_;
  std::map<std::string, Rows> parameters_;
};

// Two sequences; some channels are much larger than the others, as in language models.
class ToyInputs : public BlockInputs {
 public:
  int64_t sequences() const override { return 2; }
  int64_t tokens(int64_t sequence) const override { return 24 + sequence; }
  absl::StatusOr<std::vector<float>> Read(int64_t sequence, bool) const override {
    Rows values;
    for (int64_t i = 0; i < tokens(sequence) * kHidden; ++i) {
      values.push_back(Noise(i + 5000 * sequence) * (i % kHidden % 16 == 3 ? 8.0f : 0.5f));
    }
    return values;
  }
  absl::StatusOr<std::vector<float>> ReadTarget(int64_t) const override {
    return absl::FailedPreconditionError("there are none");
  }
};

std::map<std::string, const Scheme*> SchemesOf(const Recipe& recipe, const ToyBlock& block) {
  std::map<std::string, const Scheme*> schemes;
  for (const BlockLinear& linear : block.linears()) {
    ModuleInfo info;
    info.name = linear.module;
    info.layer = 3;
    const Scheme* scheme = recipe.SchemeFor(info, ModelConfig());
    if (scheme != nullptr) schemes[linear.module] = scheme;
  }
  return schemes;
}

Rows OutputsOf(ToyBlock& block) {
  Rows out;
  for (int64_t s = 0; s < 2; ++s) {
    BlockPass pass =
        block.Run(BlockValue::kInput, *ToyInputs().Read(s, false), BlockValue::kOutput);
    out.insert(out.end(), pass[BlockValue::kOutput].begin(), pass[BlockValue::kOutput].end());
  }
  return out;
}

double RelativeError(const Rows& found, const Rows& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(found[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(error / norm);
}

// The error of the outputs of a block that `recipe` solved.
double ErrorAfter(const Recipe& recipe, bool grouped_queries = false) {
  ToyBlock block(grouped_queries);
  const Rows expected = OutputsOf(block);
  SolverControl control;
  const auto solved =
      recipe.block_solver()->Solve(block, ToyInputs(), SchemesOf(recipe, block), control);
  EXPECT_TRUE(solved.ok()) << solved.status();
  if (!solved.ok()) return 1;
  for (const auto& [module, weight] : *solved) {
    EXPECT_TRUE(Validate(weight).ok()) << module;
    std::ranges::copy(Dequantize(weight), block.Parameter(module + ".weight").begin());
  }
  return RelativeError(OutputsOf(block), expected);
}

std::unique_ptr<Recipe> Awq(std::map<std::string, std::string> options) {
  options.try_emplace("group_size", "32");
  return *MakeRecipe("awq", options);
}

// At 8 bits next to nothing but float16 is left of the error: factors and their inverses meet.
TEST(AwqBlock, FactorsAreFoldedIntoTheOperationBefore) {
  const auto recipe = Awq({{"bits", "8"}, {"apply_clip", "false"}});
  ToyBlock block;
  const Rows norm(block.Parameter(kPrefix + "input_layernorm.weight").begin(),
                  block.Parameter(kPrefix + "input_layernorm.weight").end());
  SolverControl control;
  ASSERT_TRUE(
      recipe->block_solver()->Solve(block, ToyInputs(), SchemesOf(*recipe, block), control).ok());
  EXPECT_NE(norm, Rows(block.Parameter(kPrefix + "input_layernorm.weight").begin(),
                       block.Parameter(kPrefix + "input_layernorm.weight").end()));
  EXPECT_LT(ErrorAfter(*recipe), 0.01);
  EXPECT_LT(ErrorAfter(*recipe, /*grouped_queries=*/true), 0.01);
}

// The error when every matrix is rounded for itself.
double ErrorOfRounding(const Recipe& recipe) {
  ToyBlock block;
  const Rows expected = OutputsOf(block);
  for (const BlockLinear& linear : block.linears()) {
    const std::span<float> values = block.Parameter(linear.module + ".weight");
    const Tensor weight = TensorOf<float>(DType::kF32, {linear.rows, linear.cols}, values);
    const auto rounded = SchemesOf(recipe, block).at(linear.module)->Quantize(weight, nullptr);
    EXPECT_TRUE(rounded.ok()) << rounded.status();
    std::ranges::copy(Dequantize(*rounded), values.begin());
  }
  return RelativeError(OutputsOf(block), expected);
}

TEST(AwqBlock, ScalingAndClippingBringOutputsNearer) {
  const double rounded = ErrorOfRounding(*Awq({{"apply_scale", "false"}, {"apply_clip", "false"}}));
  EXPECT_LT(ErrorAfter(*Awq({{"apply_clip", "false"}})), rounded * 0.95);
  EXPECT_LT(ErrorAfter(*Awq({{"apply_scale", "false"}})), rounded * 0.95);
  EXPECT_LT(ErrorAfter(*Awq({})), rounded * 0.85);
}

// A kept linear is scaled with those that read the same values; one of its own is not touched.
TEST(AwqBlock, KeptLinearsStayRight) {
  const auto recipe = Awq({{"bits", "8"}, {"modules_to_not_convert", "v_proj,down_proj"}});
  EXPECT_EQ(SchemesOf(*recipe, ToyBlock()).size(), 5u);
  EXPECT_LT(ErrorAfter(*recipe), 0.01);
}

TEST(AwqBlock, StopsWhenTold) {
  const auto recipe = Awq({});
  ToyBlock block;
  int asked = 0;
  SolverControl control{.stopped = [&] { return ++asked > 8; }, .warnings = {}};
  const auto solved =
      recipe->block_solver()->Solve(block, ToyInputs(), SchemesOf(*recipe, block), control);
  EXPECT_EQ(solved.status().code(), absl::StatusCode::kCancelled);
}

std::unique_ptr<Recipe> AutoRound(std::map<std::string, std::string> options) {
  options.try_emplace("group_size", "32");
  options.try_emplace("batch_size", "1");
  return *MakeRecipe("autoround", options);
}

TEST(AutoRoundBlock, TrainingBringsOutputsNearer) {
  for (const auto& [bits, sym] : {std::pair{"4", "true"}, {"4", "false"}, {"2", "true"}}) {
    SCOPED_TRACE(absl::StrCat(bits, " ", sym));
    // The first iteration rounds plainly; the best of one is that.
    const double plain =
        ErrorAfter(*AutoRound({{"bits", bits}, {"sym", sym}, {"iters", "1"}, {"batch_size", "2"}}));
    const double trained = ErrorAfter(
        *AutoRound({{"bits", bits}, {"sym", sym}, {"iters", "60"}, {"batch_size", "2"}}));
    EXPECT_LT(trained, plain * 0.8);
  }
}

TEST(AutoRoundBlock, TheSameBytesForAnyNumberOfThreads) {
  const auto solve = [](int threads) {
    SetComputeThreads(threads);
    const auto recipe = AutoRound({{"iters", "5"}});
    ToyBlock block;
    SolverControl control;
    return *recipe->block_solver()->Solve(block, ToyInputs(), SchemesOf(*recipe, block), control);
  };
  const auto one = solve(1), two = solve(2);
  for (const auto& [module, weight] : one) {
    EXPECT_EQ(weight.codes, two.at(module).codes);
    EXPECT_EQ(weight.scale, two.at(module).scale);
  }
}

TEST(AutoRoundBlock, LayersMayDiffer) {
  const auto recipe = AutoRound(
      {{"iters", "2"}, {"layer_config", R"({"down_proj": {"bits": 8}, "v_proj": {"bits": 16}})"}});
  ToyBlock block;
  const auto schemes = SchemesOf(*recipe, block);
  EXPECT_EQ(schemes.size(), 6u);
  SolverControl control;
  const auto solved = *recipe->block_solver()->Solve(block, ToyInputs(), schemes, control);
  EXPECT_EQ(solved.at(kPrefix + "mlp.down_proj").grid.bits, 8);
  EXPECT_EQ(solved.at(kPrefix + "mlp.up_proj").grid.bits, 4);
  EXPECT_THAT(recipe->QuantizationConfig(ModelConfig()), HasSubstr(R"("v_proj":{"bits":16})"));
}

}  // namespace
}  // namespace quantd
