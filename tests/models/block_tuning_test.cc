// Calibrated jobs whose blocks are tuned after their matrices are quantized.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "models/calibration/block_model.h"
#include "tests/models/calibration_job_fixture.h"

namespace quantd {
namespace {

using BlockTuningTest = CalibrationJobTest;

std::unique_ptr<Recipe> Aqlm(std::map<std::string, std::string> options) {
  options.insert({{"num_codebooks", "2"},
                  {"nbits_per_codebook", "4"},
                  {"init_max_iter", "10"},
                  {"max_epochs", "1"},
                  {"steps_per_epoch", "10"}});
  return *MakeRecipe("aqlm", options);
}

// How far the outputs of the first block of a checkpoint are from those of the original, squared.
double FirstBlockError(const std::shared_ptr<const ModelRoot>& root, const std::string& name) {
  const auto original = *OpenBlockModel(*OpenModelSource(root, "tiny"), {.positions = 40});
  const auto model = *OpenBlockModel(*OpenModelSource(root, name), {.positions = 40});
  double error = 0, norm = 0;
  for (int s = 0; s < 5; ++s) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40 - s; ++i) ids.push_back((s * 77 + i * i * 13) % 512);
    FloatBuffer outputs[2];
    for (const auto& [which, from] : {std::pair{0, original.get()}, {1, model.get()}}) {
      outputs[which] = (*from->LoadBlock(0))
                           ->Run(BlockValue::kInput, *original->Embed(ids),
                                 BlockValue::kOutput)[BlockValue::kOutput];
    }
    for (size_t i = 0; i < outputs[0].size(); ++i) {
      error += std::pow(outputs[1][i] - outputs[0][i], 2);
      norm += std::pow(outputs[0][i], 2);
    }
  }
  return error / norm;
}

TEST_F(BlockTuningTest, TuningBringsTheOutputsOfBlocksNearer) {
  const std::map<std::string, std::string> tuned = {{"finetune_max_epochs", "8"},
                                                    {"finetune_lr", "0.001"}};
  std::map<std::string, std::string> validated = tuned;
  validated["val_size"] = "2";
  validated["finetune_early_stop"] = "2";
  ASSERT_TRUE(Quantize("plain", *Aqlm({{"finetune_max_epochs", "0"}})).ok());
  const auto report = Quantize("tuned", *Aqlm(tuned));
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_TRUE(Quantize("validated", *Aqlm(validated)).ok());
  const double plain = FirstBlockError(root_, "plain");
  EXPECT_LT(FirstBlockError(root_, "tuned"), 0.8 * plain);
  EXPECT_LT(FirstBlockError(root_, "validated"), plain);
  int quantized = 0;
  for (const LayerReport& layer : report->layers) quantized += layer.output_error > 0;
  EXPECT_EQ(quantized, 14);
}

TEST_F(BlockTuningTest, TunedBlocksDoNotDependOnInterruptions) {
  ExpectInterruptionsLeaveNoTrace(
      *Aqlm({{"finetune_max_epochs", "2"}, {"finetune_batch_size", "2"}}), 3, 11);
}

TEST_F(BlockTuningTest, TunedBlocksDoNotDependOnThreads) {
  const auto recipe = Aqlm({{"finetune_max_epochs", "2"}, {"finetune_batch_size", "2"}});
  ASSERT_TRUE(Quantize("one", *recipe).ok());
  SetComputeThreads(3);
  ASSERT_TRUE(Quantize("threads", *recipe).ok());
  EXPECT_EQ(Read("threads"), Read("one"));
}

TEST_F(BlockTuningTest, AqlmListsWhatItKeeps) {
  const auto recipe = Aqlm({{"finetune_max_epochs", "0"},
                            {"linear_weights_not_to_quantize", "lm_head,model.layers.1.mlp"}});
  ASSERT_TRUE(Quantize("out", *recipe).ok());
  const std::string config = Read("out")["config.json"];
  for (const char* name :
       {"lm_head", "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.up_proj.weight"}) {
    EXPECT_NE(config.find(absl::StrCat("\"", name, "\"")), std::string::npos) << name << config;
  }
  EXPECT_EQ(config.find("model.layers.0.mlp.up_proj.weight"), std::string::npos);
  EXPECT_TRUE(OpenBlockModel(*OpenModelSource(root_, "out"), {.positions = 40}).ok());
}

}  // namespace
}  // namespace quantd
