// Solvers that work on a whole block.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/method.h"
#include "quantizers/methods/autoround_block.h"
#include "quantizers/methods/awq_block.h"
#include "toy_block.h"

namespace quantd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

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

// Of a large block one matrix takes a tenth of a second, all of them too long.
TEST(AutoRoundBlock, StopsBetweenMatricesToo) {
  constexpr int kIterations = 3, kMatrices = 7;
  const auto recipe = AutoRound({{"iters", absl::StrCat(kIterations)}});
  int asked = 0, stop_at = 0;
  SolverControl control{.stopped = [&] { return ++asked == stop_at; }, .warnings = {}};
  const auto solve = [&] {
    ToyBlock block;
    asked = 0;
    return recipe->block_solver()->Solve(block, ToyInputs(), SchemesOf(*recipe, block), control);
  };
  ASSERT_TRUE(solve().ok());
  const int whole = asked;
  // Each is laid out, rounded, kept as the best at least once, stepped in every iteration, spelled.
  EXPECT_GE(whole, (4 + kIterations) * kMatrices);
  for (stop_at = 1; stop_at <= whole; ++stop_at) {
    EXPECT_TRUE(absl::IsCancelled(solve().status())) << stop_at << " of " << whole;
  }
}

// int8 up to 4 bits, as long as nobody says otherwise; only while training.
TEST(AutoRoundBlock, RoundsWhatItMultipliesWhileTraining) {
  constexpr auto kInt8 = ProductRounding::kInt8, kBFloat16 = ProductRounding::kBFloat16;
  const std::pair<std::map<std::string, std::string>, std::optional<ProductRounding>> cases[] = {
      {{}, kInt8},
      {{{"bits", "2"}}, kInt8},
      {{{"bits", "5"}}, kBFloat16},
      {{{"layer_config", R"({"down_proj": {"bits": 8}})"}}, kBFloat16},
      {{{"layer_config", R"({"down_proj": {"bits": 16}})"}}, kInt8},
      {{{"products", "bfloat16"}}, kBFloat16},
      {{{"bits", "8"}, {"products", "int8"}}, kInt8},
      {{{"amp", "false"}}, std::nullopt}};
  for (auto [options, expected] : cases) {
    options.emplace("iters", "1");
    const auto recipe = AutoRound(options);
    ToyBlock block;
    SolverControl control;
    ASSERT_TRUE(
        recipe->block_solver()->Solve(block, ToyInputs(), SchemesOf(*recipe, block), control).ok());
    EXPECT_THAT(block.roundings(), ElementsAre(expected, std::nullopt));
  }
  EXPECT_THAT(MakeRecipe("autoround", {{"amp", "false"}, {"products", "int8"}}).status().message(),
              HasSubstr("products: amp=false multiplies float32"));
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

TEST(BlockSolvers, GiveTheSameBytesByWayOfFiles) {
  const std::unique_ptr<Recipe> recipes[] = {Awq({}), AutoRound({{"iters", "5"}})};
  for (const auto& recipe : recipes) {
    const SpilledInputs spilled;
    const ToyInputs kept;
    std::map<std::string, QuantizedTensor> solved[2];
    for (const auto& [which, inputs] :
         {std::pair<int, const BlockInputs*>{0, &kept}, {1, &spilled}}) {
      ToyBlock block;
      SolverControl control;
      auto found =
          recipe->block_solver()->Solve(block, *inputs, SchemesOf(*recipe, block), control);
      ASSERT_TRUE(found.ok()) << found.status();
      solved[which] = *std::move(found);
    }
    EXPECT_GT(spilled.sink().created, 0);
    EXPECT_TRUE(spilled.sink().there.empty());
    for (const auto& [module, weight] : solved[0]) {
      EXPECT_EQ(weight.codes, solved[1].at(module).codes);
      EXPECT_EQ(weight.scale, solved[1].at(module).scale);
    }
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
