// Calibrated jobs block by block on a golden model: what solvers see, what is written, and that
// interruptions and threads leave no trace in the bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "models/calibration/block_model.h"
#include "quantizers/calibration_data.h"
#include "quantizers/pipeline.h"
#include "tests/models/calibration_job_fixture.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

// Halves the MLP's norm and doubles what it feeds, then rounds: the block computes the same.
class FoldingSolver final : public BlockSolver {
 public:
  absl::StatusOr<std::map<std::string, QuantizedTensor>> Solve(
      CalibratedBlock& block, const BlockInputs& inputs,
      const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const override {
    const std::string prefix =
        block.linears()[0].module.substr(0, block.linears()[0].module.find("self_attn"));
    for (float& w : block.Parameter(prefix + "post_attention_layernorm.weight")) w *= 0.5f;
    std::map<std::string, QuantizedTensor> out;
    for (const BlockLinear& linear : block.linears()) {
      const std::span<float> weight = block.Parameter(linear.module + ".weight");
      if (linear.input == BlockValue::kMlpInput) {
        for (float& w : weight) w *= 2;
      }
      if (!schemes.contains(linear.module)) continue;
      const Tensor tensor =
          TensorOf<float>(DType::kF32, {linear.rows, linear.cols}, std::span<const float>(weight));
      absl::StatusOr<QuantizedTensor> quantized =
          schemes.at(linear.module)->Quantize(ConvertTensor(tensor, DType::kBF16), nullptr);
      if (!quantized.ok()) return quantized.status();
      out[linear.module] = *std::move(quantized);
    }
    control.warnings.push_back(absl::StrCat("saw ", inputs.sequences(), " sequences"));
    return out;
  }
  bool rescales() const override { return true; }
};

TEST_F(CalibrationJobTest, WritesACheckpointAndReportsErrors) {
  std::vector<int64_t> blocks;
  double eta_seconds = -1;
  control_.on_progress = [&](const QuantizeProgress& progress) {
    EXPECT_TRUE(progress.blocks == 0 || progress.blocks == 2);
    if (progress.block > 0) blocks.push_back(progress.block);
    eta_seconds = progress.eta_seconds;
  };
  const auto report = Quantize("out");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(eta_seconds, 0);
  EXPECT_TRUE(std::is_sorted(blocks.begin(), blocks.end()));
  EXPECT_EQ(blocks.back(), 2);
  int fitted = 0;
  for (const LayerReport& layer : report->layers) {
    if (layer.scheme.find("fitted") == std::string::npos) continue;
    ++fitted;
    EXPECT_GT(layer.output_error, 0) << layer.name;
    EXPECT_LT(layer.output_error, 0.5) << layer.name;
    EXPECT_GT(layer.rounding_error, 0) << layer.name;
    // The scheme makes it worse than rounding does.
    EXPECT_LT(layer.rounding_error, layer.output_error) << layer.name;
  }
  EXPECT_EQ(fitted, 14);
  EXPECT_EQ(report->warnings.size(), 15u);
  EXPECT_EQ(report->warnings[0], "a note");
  EXPECT_EQ(report->warnings[1], "model.layers.0.self_attn.q_proj: seen 190 tokens");
  EXPECT_TRUE(OpenModelSource(root_, "out").ok());
  EXPECT_EQ(Entries(), 2u);
  EXPECT_EQ(Read("out").size(), 2u);  // nothing of the job's own
}

TEST_F(CalibrationJobTest, ACancelEndsTheMeasuringOfABlock) {
  int measured = 0;
  control_.on_progress = [&](const QuantizeProgress& progress) {
    if (progress.output_error < 0) return;
    ++measured;
    control_.cancel = true;
  };
  const FoldingSolver solver;
  const auto report = Quantize("out", false, {}, &solver);
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(CalibrationJobTest, InterruptionsLeaveNoTrace) {
  ExpectInterruptionsLeaveNoTrace(FittedRecipe({}, nullptr), 1, 9);
}

TEST_F(CalibrationJobTest, InterruptionsOfBlockSolversLeaveNoTrace) {
  const FoldingSolver solver;
  ExpectInterruptionsLeaveNoTrace(FittedRecipe({}, &solver), 1, 9);
}

TEST_F(CalibrationJobTest, ADamagedRestStartsOver) {
  ASSERT_TRUE(Quantize("whole").ok());
  control_.on_progress = [&](const QuantizeProgress& progress) {
    if (progress.block == 2) control_.drain = true;
  };
  ASSERT_TRUE(absl::IsAborted(Quantize("parts").status()));
  control_.drain = false;
  control_.on_progress = nullptr;
  const fs::path partial = path_ / ".parts.partial";
  ASSERT_TRUE(fs::exists(partial / "calibration.inputs-1"));
  std::fstream file(partial / "calibration.inputs-1", std::ios::in | std::ios::out);
  file.seekp(1000);
  file.put('x');
  file.close();
  fs::remove(partial / "calibration.tokens");
  const auto resumed = Quantize("parts", /*resume=*/true);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(Read("parts"), Read("whole"));
  EXPECT_EQ(asked_, 3);
}

TEST_F(CalibrationJobTest, AResumeNeedsTheSameText) {
  control_.on_progress = [&](const QuantizeProgress& progress) {
    if (progress.block == 2) control_.drain = true;
  };
  ASSERT_TRUE(absl::IsAborted(Quantize("parts").status()));
  control_.drain = false;
  const CalibrationData other = Data("b");
  EXPECT_EQ(QuantizeCheckpoint(root_, "tiny", FittedRecipe({}, nullptr),
                               {.name = "parts", .resume = true}, control_, &other)
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(CalibrationJobTest, CancelLeavesNothing) {
  control_.on_progress = [&](const QuantizeProgress& progress) {
    if (progress.block == 2) control_.cancel = true;
  };
  EXPECT_TRUE(absl::IsCancelled(Quantize("out").status()));
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(CalibrationJobTest, ThreadsLeaveNoTrace) {
  SetComputeThreads(1);
  ASSERT_TRUE(Quantize("one").ok());
  SetComputeThreads(3);
  ASSERT_TRUE(Quantize("three").ok());
  EXPECT_EQ(Read("one"), Read("three"));
}

TEST_F(CalibrationJobTest, LaterLinearsSeeWhatEarlierOnesBecame) {
  const auto bytes = [this](const std::string& name, const CalibrationSpec& spec) {
    const auto report = Quantize(name, false, spec);
    EXPECT_TRUE(report.ok()) << report.status();
    return Read(name)["model.safetensors"];
  };
  const std::string both = bytes("both", {});
  const std::string blocks = bytes("blocks", {.true_sequential = false});
  const std::string none = bytes("none", {.true_sequential = false, .quantized_inputs = false});
  EXPECT_NE(both, blocks);
  EXPECT_NE(blocks, none);
  // The original's inputs on the side change nothing for those who do not read them.
  EXPECT_EQ(bytes("original", {.both_inputs = true}), both);
}

TEST_F(CalibrationJobTest, SolversMayChangeOtherParameters) {
  const FoldingSolver solver;
  const auto report = Quantize("out", false, {}, &solver);
  ASSERT_TRUE(report.ok()) << report.status();
  // What both blocks say is said once.
  EXPECT_EQ(report->warnings, (std::vector<std::string>{"a note", "saw 5 sequences"}));
  const auto before = *OpenModelSource(root_, "tiny"), after = *OpenModelSource(root_, "out");
  const auto floats = [](const ModelSource& source, const std::string& name) {
    const Weight weight = *source.Read(name);
    const TensorView view = std::get<Tensor>(weight).view();
    std::vector<float> values(static_cast<size_t>(view.elements()));
    LoadFloats(view, 0, view.elements(), values.data());
    return values;
  };
  const std::string norm = "model.layers.1.post_attention_layernorm.weight";
  std::vector<float> halved = floats(*before, norm);
  for (float& w : halved) w *= 0.5f;
  EXPECT_EQ(floats(*after, norm), halved);
  const std::string other = "model.layers.1.input_layernorm.weight";
  EXPECT_EQ(floats(*after, other), floats(*before, other));
  // Against the doubled weights that were quantized: errors against the source's would be above 1.
  for (const LayerReport& layer : report->layers) {
    if (layer.scheme.find("fitted") == std::string::npos) continue;
    EXPECT_LT(layer.relative_error, 0.5) << layer.name;
    EXPECT_GT(layer.output_error, 0) << layer.name;
    EXPECT_LT(layer.output_error, 0.5) << layer.name;
  }
}

TEST_F(CalibrationJobTest, MatricesSolvedTogetherHaveErrorsToo) {
  for (const std::string method : {"awq", "autoround"}) {
    const auto recipe = *MakeRecipe(
        method, method == "awq"
                    ? std::map<std::string, std::string>{{"group_size", "64"}}
                    : std::map<std::string, std::string>{{"group_size", "64"}, {"iters", "20"}});
    const auto report = Quantize(method, *recipe);
    ASSERT_TRUE(report.ok()) << report.status();
    int quantized = 0;
    for (const LayerReport& layer : report->layers) {
      if (layer.scheme.find("kept") == 0) continue;
      ++quantized;
      EXPECT_GT(layer.output_error, 0) << method << " " << layer.name;
      EXPECT_GT(layer.rounding_error, 0) << method << " " << layer.name;
      // Of the same sort as plain rounding's, not that of another matrix or other inputs (1 and
      // more).
      EXPECT_LT(layer.output_error, 2 * layer.rounding_error) << method << " " << layer.name;
      EXPECT_LT(layer.relative_error, 0.3) << method << " " << layer.name;
    }
    EXPECT_EQ(quantized, 14) << method;
  }
}

TEST_F(CalibrationJobTest, NamesTheLayerOfANaN) {
  CalibrationData data = Data();
  const auto inner = data.model;
  class Poisoned final : public BlockModel {
   public:
    explicit Poisoned(std::shared_ptr<BlockModel> inner) : inner_(std::move(inner)) {}
    int64_t blocks() const override { return inner_->blocks(); }
    int64_t hidden_size() const override { return inner_->hidden_size(); }
    std::vector<std::string> ParametersOf(int64_t block) const override {
      return inner_->ParametersOf(block);
    }
    absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) override {
      return inner_->Embed(tokens);
    }
    absl::StatusOr<std::unique_ptr<CalibratedBlock>> LoadBlock(int64_t block) override {
      auto loaded = inner_->LoadBlock(block);
      if (block == 1 && loaded.ok()) {
        (*loaded)->Parameter("model.layers.1.self_attn.v_proj.weight")[3] = 1e38f;
      }
      return loaded;
    }

   private:
    std::shared_ptr<BlockModel> inner_;
  };
  data.model = std::make_shared<Poisoned>(inner);
  const FittedRecipe recipe({.true_sequential = false}, nullptr);
  const absl::Status status =
      QuantizeCheckpoint(root_, "tiny", recipe, {.name = "out"}, control_, &data).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("model.layers.1.self_attn.o_proj"), absl::string_view::npos)
      << status;
  EXPECT_EQ(Entries(), 1u);
}

}  // namespace
}  // namespace quantd
