// Solvers that take seconds for a large matrix end with CANCELLED when they are asked to stop,
// wherever they are.
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "core/parallel.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/method.h"
#include "tests/random_floats.h"

namespace quantd {
namespace {

constexpr int64_t kRows = 512, kCols = 1024;

Tensor SomeWeight() {
  const std::vector<float> values = RandomFloats(kRows * kCols, 1, 0.02f);
  return ConvertTensor(TensorOf<float>(DType::kF32, {kRows, kCols}, std::span<const float>(values)),
                       DType::kBF16);
}

void ExpectStops(const Scheme& scheme) {
  const Tensor weight = SomeWeight();
  std::atomic<int> asked{0};
  int stop_at = 0;
  SolverControl control{.stopped = [&] { return ++asked == stop_at; }, .warnings = {}};
  InputStats stats;
  stats.control = &control;
  ASSERT_TRUE(scheme.Quantize(weight, &stats).ok());
  const int whole = asked;
  // Often enough that a matrix a hundred times as large has a tenth of a second between two.
  EXPECT_GE(whole, 8);
  for (const int stop : {1, whole / 2, whole}) {
    SCOPED_TRACE(stop);
    asked = 0;
    stop_at = stop;
    EXPECT_TRUE(absl::IsCancelled(scheme.Quantize(weight, &stats).status()));
  }
}

class StoppedSolversTest : public testing::Test {
 protected:
  void SetUp() override { SetComputeThreads(1); }
  void TearDown() override { SetComputeThreads(0); }
};

TEST_F(StoppedSolversTest, OfMethods) {
  const std::map<std::string, std::map<std::string, std::string>> methods = {
      {"hqq", {}},
      {"sinq", {}},
      {"fouroversix", {}},
      {"fp_quant", {}},
      {"higgs", {}},
      {"torchao",
       {{"quant_type", "IntxWeightOnlyConfig"},
        {"weight_dtype", "int4"},
        {"intx_choose_qparams_algorithm", "HQQ_SCALE_ONLY"}}}};
  ModuleInfo module;
  module.name = "model.layers.0.mlp.up_proj";
  module.rows = kRows;
  module.cols = kCols;
  module.layer = 0;
  ModelConfig config;
  config.dtype = DType::kBF16;
  for (const auto& [name, options] : methods) {
    SCOPED_TRACE(name);
    const auto recipe = MakeRecipe(name, options);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    const Scheme* scheme = (*recipe)->SchemeFor(module, config);
    ASSERT_NE(scheme, nullptr);
    ExpectStops(*scheme);
  }
}

// Nothing that takes longer the more columns there are goes over all of them at once.
TEST_F(StoppedSolversTest, OfVptqBetweenColumns) {
  const auto recipe = *MakeRecipe(
      "vptq", {{"num_centroids", "-1,8"}, {"num_res_centroids", "-1,-1"}, {"kiter", "1"}});
  ModuleInfo module;
  module.name = "model.layers.0.mlp.up_proj";
  module.rows = kRows;
  module.cols = kCols;
  module.layer = 0;
  const Tensor weight = SomeWeight();
  std::vector<float> gram(kCols * kCols);
  for (int64_t c = 0; c < kCols; ++c) gram[c * (kCols + 1)] = 1;
  int asked = 0, stop_at = 0;
  SolverControl control{.stopped = [&] { return ++asked == stop_at; }, .warnings = {}};
  const InputStats stats = {.gram = gram, .tokens = 1, .control = &control};
  const Scheme* scheme = recipe->SchemeFor(module, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  ASSERT_TRUE(scheme->Quantize(weight, &stats).ok());
  // The mean gram, the scaled one, the ordered one, and the columns that are searched.
  EXPECT_GE(asked, 4 * kCols);
  for (stop_at = 1; stop_at <= 4 * kCols; stop_at += kCols / 2 - 1) {
    SCOPED_TRACE(stop_at);
    asked = 0;
    EXPECT_TRUE(absl::IsCancelled(scheme->Quantize(weight, &stats).status()));
  }
}

TEST_F(StoppedSolversTest, OfGgufBlocks) {
  for (const GgmlType type : {GgmlType::kQ8_0, GgmlType::kQ4_K}) {
    ExpectStops(**SchemeForGgmlType(type));
  }
}

}  // namespace
}  // namespace quantd
