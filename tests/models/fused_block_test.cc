// AWQ's folding where projections are fused: the factors of a matrix go into the rows before it
// that make its inputs, and the block computes the same.
#include <gtest/gtest.h>

#include <cmath>

#include "core/parallel.h"
#include "memory_source.h"
#include "models/calibration/block_model.h"
#include "quantizers/method.h"
#include "tests/quantizers/toy_block.h"

namespace quantd {
namespace {

ModelConfig FusedConfig(int64_t kv_heads) {
  ModelConfig config = TinyPhi3Config();
  config.hidden_size = kHidden;  // of ToyInputs
  config.intermediate_size = 96;
  config.num_key_value_heads = kv_heads;
  return config;
}

FloatBuffer OutputOf(CalibratedBlock& block) {
  const FloatBuffer hidden = *ToyInputs().Read(0, false);
  return block.Run(BlockValue::kInput, hidden, BlockValue::kOutput)[BlockValue::kOutput];
}

// Leaves its weights in the block with the factors folded in, and unrounded.
void SolveByAwq(const ModelConfig& config, CalibratedBlock& block) {
  const auto recipe = *MakeRecipe("awq", {{"group_size", "32"}, {"apply_clip", "false"}});
  std::map<std::string, const Scheme*> schemes;
  for (const BlockLinear& linear : block.linears()) {
    ModuleInfo info;
    info.name = linear.module;
    info.layer = 0;
    schemes[linear.module] = recipe->SchemeFor(info, config);
  }
  EXPECT_EQ(schemes.size(), 4u);
  SolverControl control;
  const auto solved = recipe->block_solver()->Solve(block, ToyInputs(), schemes, control);
  ASSERT_TRUE(solved.ok()) << solved.status();
  EXPECT_EQ(solved->size(), 4u);
}

class FusedAwq : public testing::TestWithParam<int64_t> {};

TEST_P(FusedAwq, FoldsIntoTheRowsThatMakeTheInputs) {
  SetComputeThreads(1);  // its many products are too small to share
  const ModelConfig config = FusedConfig(GetParam());
  const auto source = RandomDecoder(config, 5);
  const auto model = *OpenBlockModel(RandomDecoder(config, 5), {.positions = 32});
  const auto block = *model->LoadBlock(0);
  const FloatBuffer expected = OutputOf(*block);
  SolveByAwq(config, *block);
  const FloatBuffer found = OutputOf(*block);
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(found[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  // Weights and factors are float16. Factors in other rows than those change it by 0.1 and more.
  EXPECT_LT(std::sqrt(error / norm), 3e-3);
  // Values take the factors of o where every head has its own, as upstream folds them.
  const auto changed = [&](const std::string& module) {
    const std::vector<float> before = source->Floats("model.layers.0." + module + ".weight");
    const auto now = block->Parameter("model.layers.0." + module + ".weight");
    double difference = 0;
    for (size_t i = 0; i < before.size(); ++i) difference += std::fabs(now[i] - before[i]);
    return difference / static_cast<double>(before.size()) > 1e-3;
  };
  EXPECT_EQ(changed("self_attn.o_proj"), GetParam() == 4);
  EXPECT_TRUE(changed("self_attn.qkv_proj"));
  EXPECT_TRUE(changed("mlp.gate_up_proj"));
  EXPECT_TRUE(changed("mlp.down_proj"));
}

INSTANTIATE_TEST_SUITE_P(KeyHeads, FusedAwq, testing::Values(4, 2));

}  // namespace
}  // namespace quantd
