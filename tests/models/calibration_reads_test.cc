// Calibrated jobs read of their source what they need, once.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/match.h"
#include "quantizers/block_job.h"
#include "tests/models/calibration_job_fixture.h"

namespace quantd {
namespace {

// Counts how often every parameter is read.
class CountingSource final : public ModelSource {
 public:
  explicit CountingSource(std::unique_ptr<ModelSource> source) : source_(std::move(source)) {}
  const ModelConfig& config() const override { return source_->config(); }
  const std::vector<SourceParameter>& parameters() const override { return source_->parameters(); }
  bool Has(absl::string_view name) const override { return source_->Has(name); }
  absl::StatusOr<Weight> Read(absl::string_view name) const override {
    ++reads[std::string(name)];
    return source_->Read(name);
  }
  std::string quantization() const override { return source_->quantization(); }
  absl::StatusOr<SideFiles> side_files() const override { return source_->side_files(); }
  uint64_t stored_bytes() const override { return source_->stored_bytes(); }

  mutable std::map<std::string, int> reads;

 private:
  const std::unique_ptr<ModelSource> source_;
};

// Rounds the weights as they are, or their doubles.
class RoundingSolver final : public BlockSolver {
 public:
  explicit RoundingSolver(bool rescales) : rescales_(rescales) {}
  absl::StatusOr<std::map<std::string, QuantizedTensor>> Solve(
      CalibratedBlock& block, const BlockInputs&,
      const std::map<std::string, const Scheme*>& schemes, SolverControl&) const override {
    std::map<std::string, QuantizedTensor> out;
    for (const BlockLinear& linear : block.linears()) {
      const std::span<float> weight = block.Parameter(linear.module + ".weight");
      for (float& w : weight) w *= rescales_ ? 2.0f : 1.0f;
      const Tensor tensor =
          TensorOf<float>(DType::kF32, {linear.rows, linear.cols}, std::span<const float>(weight));
      auto quantized =
          schemes.at(linear.module)->Quantize(ConvertTensor(tensor, DType::kBF16), nullptr);
      if (!quantized.ok()) return quantized.status();
      out[linear.module] = *std::move(quantized);
    }
    return out;
  }
  bool rescales() const override { return rescales_; }

 private:
  const bool rescales_;
};

class CalibrationReadsTest : public CalibrationJobTest {
 protected:
  // Runs a job of `recipe` on a source that counts.
  absl::Status Run(const Recipe& recipe, bool resume) {
    const CalibrationData data = Data();
    CountingSource source(*OpenModelSource(root_, "tiny"));
    JobPlan plan = *PlanFolderJob(source, &recipe, std::nullopt);
    const OutputOptions output = {.name = "out", .resume = resume};
    auto sink = CreateFolderSink(root_, plan, output);
    if (!sink.ok()) return sink.status();
    Job job(source, plan, output, **sink, control_);
    BlockJob blocks(job, plan, recipe, **sink, data);
    const absl::Status status = job.Run([&blocks] { return blocks.Run(); }).status();
    reads_ = source.reads;
    return status;
  }

  // The parameters whose names hold `text`, every one of them read as often as it says.
  void ExpectReads(const std::string& text, int times, size_t parameters) {
    size_t found = 0;
    for (const auto& [name, reads] : reads_) {
      if (!absl::StrContains(name, text)) continue;
      ++found;
      EXPECT_EQ(reads, times) << name;
    }
    EXPECT_EQ(found, parameters) << text;
  }

  std::map<std::string, int> reads_;
};

TEST_F(CalibrationReadsTest, EveryParameterOnce) {
  for (const bool together : {false, true}) {
    for (const bool rescales : {false, true}) {
      if (rescales && !together) continue;
      SCOPED_TRACE(testing::Message() << together << rescales);
      const RoundingSolver solver(rescales);
      const FittedRecipe recipe({}, together ? &solver : nullptr);
      ASSERT_TRUE(Run(recipe, false).ok());
      ExpectReads("_proj.weight", 1, 14);
      ExpectReads("layernorm.weight", 1, 4);
      std::filesystem::remove_all(path_ / "out");
    }
  }
}

// A run that goes on in the middle of a block solves it again, and reads no more than that takes.
TEST_F(CalibrationReadsTest, NothingOfWhatAnEarlierRunWrote) {
  const RoundingSolver solver(true);
  const FittedRecipe recipe({}, &solver);
  control_.on_progress = [this](const QuantizeProgress& progress) {
    if (absl::StrContains(progress.tensor, "layers.1.") &&
        absl::EndsWith(progress.tensor, "input_layernorm.weight")) {
      control_.drain = true;
    }
  };
  ASSERT_TRUE(absl::IsAborted(Run(recipe, false)));
  control_.drain = false;
  control_.on_progress = nullptr;
  ASSERT_TRUE(Run(recipe, true).ok());
  ExpectReads("layers.0.", 0, 0);
  ExpectReads("layers.1.input_layernorm.weight", 0, 0);
  ExpectReads("_proj.weight", 1, 7);
  ExpectReads("layers.1.post_attention_layernorm.weight", 1, 1);
}

}  // namespace
}  // namespace quantd
