// Calibrated jobs block by block on a golden model: what solvers see, what is written, and that
// interruptions and threads leave no trace in the bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "models/calibration/block_model.h"
#include "quantizers/calibration_data.h"
#include "quantizers/parameter_names.h"
#include "quantizers/pipeline.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;
using Files = std::map<std::string, std::string>;

// compressed-tensors' rounding after every column has moved by how its inputs go with their
// neighbour's: bytes show what the statistics were.
class FittedScheme final : public Scheme {
 public:
  explicit FittedScheme(const Scheme& inner) : inner_(inner) {}
  std::string Describe() const override { return absl::StrCat("fitted ", inner_.Describe()); }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    return inner_.CheckShape(rows, cols);
  }
  InputNeeds Needs() const override { return {.gram = true}; }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (stats->stopped()) return absl::CancelledError("stopped");
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    if (stats->gram.size() != static_cast<size_t>(cols * cols)) {
      return absl::InternalError("no gram matrix");
    }
    std::vector<float> values(static_cast<size_t>(rows * cols));
    LoadFloats(weight, 0, rows * cols, values.data());
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t c = i % cols, next = (c + 1) % cols;
      const float* gram = stats->gram.data();
      values[i] += 0.01f * gram[c * cols + next] /
                   std::sqrt(gram[c * cols + c] * gram[next * cols + next] + 1e-20f);
    }
    stats->Warn(absl::StrCat("seen ", stats->tokens, " tokens"));
    return inner_.Quantize(
        ConvertTensor(TensorOf<float>(DType::kF32, weight.shape, std::span<const float>(values)),
                      weight.dtype),
        nullptr);
  }

 private:
  const Scheme& inner_;
};

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

class FittedRecipe final : public Recipe {
 public:
  FittedRecipe(CalibrationSpec spec, const BlockSolver* solver) : spec_(spec), solver_(solver) {
    inner_ = *MakeRecipe("compressed-tensors", {{"scheme", "W8A16"}});
  }
  absl::string_view method() const override { return "fitted"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig& config) const override {
    const Scheme* scheme = inner_->SchemeFor(module, config);
    if (scheme == nullptr || solver_ != nullptr) return scheme;
    auto& made = made_[scheme];
    if (made == nullptr) made = std::make_unique<FittedScheme>(*scheme);
    return made.get();
  }
  const Codec* codec() const override { return inner_->codec(); }
  std::string QuantizationConfig(const ModelConfig& config) const override {
    return inner_->QuantizationConfig(config);
  }
  std::optional<CalibrationSpec> calibration() const override { return spec_; }
  const BlockSolver* block_solver() const override { return solver_; }

 private:
  CalibrationSpec spec_;
  const BlockSolver* solver_;
  std::unique_ptr<Recipe> inner_;
  mutable std::map<const Scheme*, std::unique_ptr<FittedScheme>> made_;
};

class CalibrationJobTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(testing::TempDir()) /
            (std::string("calibration-") +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(path_);
    fs::create_directories(path_ / "tiny");
    const fs::path golden = TestData("golden/tiny-llama");
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(golden / name, path_ / "tiny" / name);
    }
    root_ = *ModelRoot::Open(path_.string());
    // A team whose threads wait for each other crawls where tests share few CPUs.
    SetComputeThreads(1);
  }
  void TearDown() override {
    SetComputeThreads(0);
    fs::remove_all(path_);
  }

  CalibrationData Data(const std::string& identity = "a") {
    CalibrationData data;
    data.model = *OpenBlockModel(
        *OpenModelSource(root_, "tiny"),
        {.positions = 40, .stopped = [this] { return control_.cancel || control_.drain; }});
    data.identity = identity;
    data.warnings = {"a note"};
    data.sequences = [this]() -> absl::StatusOr<TokenSequences> {
      ++asked_;
      TokenSequences sequences;
      for (int s = 0; s < 5; ++s) {
        sequences.emplace_back();
        for (int i = 0; i < 40 - s; ++i) sequences.back().push_back((s * 77 + i * i * 13) % 512);
      }
      return sequences;
    };
    return data;
  }

  absl::StatusOr<QuantizeReport> Quantize(const std::string& name, bool resume = false,
                                          const CalibrationSpec& spec = {},
                                          const BlockSolver* solver = nullptr) {
    return Quantize(name, FittedRecipe(spec, solver), resume);
  }
  absl::StatusOr<QuantizeReport> Quantize(const std::string& name, const Recipe& recipe,
                                          bool resume = false) {
    const CalibrationData data = Data();
    return QuantizeCheckpoint(root_, "tiny", recipe, {.name = name, .resume = resume}, control_,
                              &data);
  }

  Files Read(const std::string& name) const {
    Files files;
    for (const auto& entry : fs::recursive_directory_iterator(path_ / name)) {
      std::ifstream stream(entry.path(), std::ios::binary);
      files[entry.path().filename()] = std::string(std::istreambuf_iterator<char>(stream), {});
    }
    return files;
  }
  size_t Entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

  fs::path path_;
  std::shared_ptr<const ModelRoot> root_;
  JobControl control_;
  int asked_ = 0;
};

TEST_F(CalibrationJobTest, WritesACheckpointAndReportsErrors) {
  std::vector<int64_t> blocks;
  control_.on_progress = [&](const QuantizeProgress& progress) {
    EXPECT_TRUE(progress.blocks == 0 || progress.blocks == 2);
    if (progress.block > 0) blocks.push_back(progress.block);
  };
  const auto report = Quantize("out");
  ASSERT_TRUE(report.ok()) << report.status();
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

TEST_F(CalibrationJobTest, InterruptionsLeaveNoTrace) {
  ASSERT_TRUE(Quantize("whole").ok());
  const Files whole = Read("whole");
  bool finished = false;
  for (int after = 1; !finished; after += 9) {
    const std::string name = absl::StrCat("parts-", after);
    int calls = 0;
    control_.on_progress = [&](const QuantizeProgress&) {
      if (++calls == after) control_.drain = true;
    };
    const auto stopped = Quantize(name);
    finished = stopped.ok();
    if (!finished) {
      ASSERT_TRUE(absl::IsAborted(stopped.status())) << stopped.status();
    }
    control_.drain = false;
    control_.on_progress = nullptr;
    if (!finished) {
      const auto resumed = Quantize(name, /*resume=*/true);
      ASSERT_TRUE(resumed.ok()) << resumed.status();
    }
    EXPECT_EQ(Read(name), whole) << after;
  }
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
  EXPECT_EQ(report->warnings,
            (std::vector<std::string>{"a note", "saw 5 sequences", "saw 5 sequences"}));
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
    std::vector<float> outputs[2];
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

TEST_F(CalibrationJobTest, TuningBringsTheOutputsOfBlocksNearer) {
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

TEST_F(CalibrationJobTest, TunedBlocksDoNotDependOnThreadsOrInterruptions) {
  const auto recipe = Aqlm({{"finetune_max_epochs", "2"}, {"finetune_batch_size", "2"}});
  ASSERT_TRUE(Quantize("whole", *recipe).ok());
  const Files whole = Read("whole");
  SetComputeThreads(3);
  ASSERT_TRUE(Quantize("threads", *recipe).ok());
  SetComputeThreads(1);
  EXPECT_EQ(Read("threads"), whole);
  bool finished = false;
  for (int after = 3; !finished; after += 11) {
    const std::string name = absl::StrCat("parts-", after);
    int calls = 0;
    control_.on_progress = [&](const QuantizeProgress&) {
      if (++calls == after) control_.drain = true;
    };
    const auto stopped = Quantize(name, *recipe);
    finished = stopped.ok();
    control_.drain = false;
    control_.on_progress = nullptr;
    if (finished) break;
    ASSERT_TRUE(absl::IsAborted(stopped.status())) << stopped.status();
    ASSERT_TRUE(Quantize(name, *recipe, /*resume=*/true).ok());
    EXPECT_EQ(Read(name), whole) << after;
  }
}

TEST_F(CalibrationJobTest, AqlmListsWhatItKeeps) {
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
