// Whole checkpoints through the pipeline, on the tiny Llama of the golden data.
#include "quantizers/pipeline.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/float_types.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "tests/quantizers/pipeline_fixture.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

TEST_F(PipelineTest, WritesACheckpointThatOpensAgain) {
  const auto report = Quantize("bitsandbytes", kNf4, {.name = "out"});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->mean_relative_error, 0.01);
  EXPECT_LT(report->mean_relative_error, 0.2);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"out", "tiny"}));
  const auto source = OpenModelSource(root_, "out");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->quantization(), "bitsandbytes");
  const auto weight = (*source)->Read("model.layers.1.mlp.down_proj.weight");
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_TRUE(std::holds_alternative<QuantizedTensor>(*weight));
  EXPECT_TRUE(std::holds_alternative<Tensor>(*(*source)->Read("lm_head.weight")));
}

// Whatever the model's dtype is, bfloat16 here.
TEST_F(PipelineTest, BiasesAreStoredAsUpstreamStoresThem) {
  RenameTensor("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.o_proj.bias");
  const std::tuple<std::string, std::map<std::string, std::string>, DType> methods[] = {
      {"autoround", {{"iters", "0"}}, DType::kF16},
      {"fbgemm_fp8", {}, DType::kF32},
      {"compressed-tensors", {{"scheme", "W4A16"}}, DType::kBF16}};
  for (const auto& [method, options, dtype] : methods) {
    const auto report = Quantize(method, options, {.name = method});
    ASSERT_TRUE(report.ok()) << report.status();
    const auto folder = CheckpointFolder::Open(*root_->OpenFolder(method));
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ((*folder)->Find("model.layers.0.self_attn.o_proj.bias")->dtype, dtype) << method;
    EXPECT_EQ((*folder)->Find("model.norm.weight")->dtype, DType::kBF16) << method;
  }
}

// torchao's loader takes the texts of whichever shard it reads last.
TEST_F(PipelineTest, EveryShardCarriesTheCodecsHeaderTexts) {
  const auto report = Quantize("torchao", {}, {.name = "out", .max_shard_bytes = 300000});
  ASSERT_TRUE(report.ok()) << report.status();
  std::map<std::string, std::string> texts;
  int shards = 0;
  for (const auto& [name, content] : Read("out")) {
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    const auto bytes = std::as_bytes(std::span(content.data(), content.size()));
    const auto reader = SafetensorsReader::FromBytes({bytes.begin(), bytes.end()});
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto& metadata = (*reader)->header().metadata;
    EXPECT_EQ(metadata.at("format"), "pt");
    EXPECT_TRUE(metadata.at("model.layers.1.mlp.down_proj.weight").find("Int8Tensor") !=
                std::string::npos);
    EXPECT_EQ(metadata.at("lm_head.weight"), R"({"_type": "Tensor"})");
    EXPECT_TRUE(shards == 1 || metadata == texts);
    texts = metadata;
  }
  EXPECT_GT(shards, 2);
  const auto source = OpenModelSource(root_, "out");
  ASSERT_TRUE(source.ok()) << source.status();
  const auto weight = (*source)->Read("model.layers.1.mlp.down_proj.weight");
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(std::get<QuantizedTensor>(*weight).dequantized_dtype, DType::kBF16);
}

TEST_F(PipelineTest, OnTheFlyGivesWhatTheCheckpointHolds) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out"}).ok());
  auto recipe = MakeRecipe("bitsandbytes", kNf4);
  ASSERT_TRUE(recipe.ok());
  const auto stored = OpenModelSource(root_, "out");
  const auto quantizing = QuantizeOnTheFly(*OpenModelSource(root_, "tiny"), *std::move(recipe));
  const std::string name = "model.layers.0.self_attn.k_proj.weight";
  const auto a = (*stored)->Read(name);
  const auto b = quantizing->Read(name);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(std::get<QuantizedTensor>(*a).codes, std::get<QuantizedTensor>(*b).codes);
  EXPECT_EQ(std::get<QuantizedTensor>(*a).scale, std::get<QuantizedTensor>(*b).scale);
}

TEST_F(PipelineTest, CancelLeavesNothing) {
  control_.on_progress = [this](const QuantizeProgress& progress) {
    if (progress.tensors_done == 5) control_.cancel = true;
  };
  const auto report = Quantize("bitsandbytes", kNf4, {.name = "out"});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

// Tensors are written while the next are worked on: what goes wrong there must end the job.
TEST_F(PipelineTest, FailedWritesEndTheJob) {
  const fs::path source = path_ / "tiny" / "model.safetensors";
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  for (const auto& [method, name] :
       {std::pair<std::string, std::string>{"bitsandbytes", "out"}, {"gguf", "out.gguf"}}) {
    const struct rlimit small = {100'000, before.rlim_max};  // a third of the output, about
    setrlimit(RLIMIT_FSIZE, &small);
    const auto report = Quantize(method, {}, {.name = name});
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_FALSE(report.ok()) << name;
    EXPECT_TRUE(absl::StrContains(report.status().message(), "cannot write")) << report.status();
    EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
  }
  signal(SIGXFSZ, handler);
}

TEST_F(PipelineTest, ASourceThatIsCutEndsTheJob) {
  const fs::path source = path_ / "tiny" / "model.safetensors";
  const fs::path copy = path_ / "copy";
  fs::copy_file(source, copy);
  for (const auto& [method, name] :
       {std::pair<std::string, std::string>{"bitsandbytes", "out"}, {"gguf", "out.gguf"}}) {
    control_.on_progress = [&](const QuantizeProgress& progress) {
      if (progress.tensors_done == 3) fs::resize_file(source, 5000);
    };
    EXPECT_EQ(Quantize(method, {}, {.name = name}).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(RootEntries(), (std::vector<std::string>{"copy", "tiny"}));
    fs::copy_file(copy, source, fs::copy_options::overwrite_existing);
  }
}

TEST_F(PipelineTest, RefusesAnExistingOutput) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out"}).ok());
  const Files before = Read("out");
  EXPECT_EQ(Quantize("bitsandbytes", kNf4, {.name = "out"}).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Read("out"), before);
  EXPECT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out", .overwrite = true}).ok());
}

TEST_F(PipelineTest, RefusesWhatCannotWorkBeforeAnOutputExists) {
  const auto indivisible =
      Quantize("compressed-tensors", {{"bits", "4"}, {"group_size", "96"}}, {.name = "out"});
  EXPECT_EQ(indivisible.status().code(), absl::StatusCode::kInvalidArgument)
      << indivisible.status();
  EXPECT_EQ(Quantize("bitsandbytes", kNf4, {.name = "../out"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

// Doubtful configurations of checkpoints whose matrices are all stored plain: nothing else would
// look at these fields.
TEST_F(PipelineTest, RefusesDoubtfulConfigurationsOfAPlainCheckpoint) {
  const fs::path config = path_ / "tiny" / "config.json";
  const std::string plain = Read("tiny").at("config.json");
  const auto status_with = [&](const std::string& quantization) {
    std::ofstream(config) << plain.substr(0, plain.rfind('}'))
                          << ", \"quantization_config\": " << quantization << "}";
    const absl::Status status = Quantize("fp8", {}, {.name = "out"}).status();
    EXPECT_EQ(OpenModelSource(root_, "tiny").status(), status);
    EXPECT_EQ(RootEntries(), std::vector<std::string>{"tiny"});
    return status;
  };
  const std::string pack =
      R"({"quant_method": "compressed-tensors", "ignore": [$0], "config_groups": {"group_0":
          {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": $1}}}})";
  const std::string intx =
      R"({"quant_method": "torchao", "modules_to_not_convert": [$0], "quant_type": {"default":
          {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": {"granularity":
          {"_type": "PerGroup", "_version": 1, "_data": {"group_size": $1}}}}}})";
  struct Case {
    std::string config, field, allowed;
  };
  const Case cases[] = {
      {R"({"load_in_4bit": true, "bnb_4bit_quant_type": "nf5"})", "bnb_4bit_quant_type",
       "expected fp4 or nf4"},
      {R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "llm_int8_skip_modules": ["((("]})",
       "llm_int8_skip_modules", "expected a module name or a regular expression"},
      {absl::Substitute(pack, "", 7), "group_size: found 7", "expected a divisor"},
      {absl::Substitute(intx, "", 7), "group_size: found 7", "expected a divisor"},
  };
  for (const Case& c : cases) {
    const absl::Status status = status_with(c.config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.config << status;
    EXPECT_TRUE(absl::StrContains(status.message(), c.field)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), c.allowed)) << status;
  }
  // Modules that the configuration leaves out may have any shape.
  for (const std::string& config :
       {absl::Substitute(pack, R"("re:.*")", 7), absl::Substitute(intx, R"("model", "lm_head")", 7),
        absl::Substitute(pack, "", 32)}) {
    std::ofstream(path_ / "tiny" / "config.json")
        << plain.substr(0, plain.rfind('}')) << ", \"quantization_config\": " << config << "}";
    EXPECT_TRUE(OpenModelSource(root_, "tiny").ok()) << OpenModelSource(root_, "tiny").status();
  }
}

TEST_F(PipelineTest, NamesTensorAndPositionOfNonFiniteWeights) {
  Poison(std::numeric_limits<float>::quiet_NaN());
  const auto refused = Quantize("bitsandbytes", kNf4, {.name = "out"});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("model.layers.0.mlp.up_proj.weight"),
            absl::string_view::npos)
      << refused.status();
  EXPECT_NE(refused.status().message().find("[4, 210]"), absl::string_view::npos)
      << refused.status();
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
  const auto zeroed = Quantize("bitsandbytes", kNf4, {.name = "out", .zero_nonfinite = true});
  ASSERT_TRUE(zeroed.ok()) << zeroed.status();
  EXPECT_FALSE(zeroed->warnings.empty());
}

TEST_F(PipelineTest, DequantizesIntoAPlainCheckpoint) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out"}).ok());
  const auto report = DequantizeCheckpoint(root_, "out", DType::kBF16, {.name = "plain"}, control_);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto quantized = OpenModelSource(root_, "out");
  const auto plain = OpenModelSource(root_, "plain");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->quantization(), "none");
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const std::vector<float> expected =
      Dequantize(std::get<QuantizedTensor>(*(*quantized)->Read(name)));
  const Tensor found = std::get<Tensor>(*(*plain)->Read(name));
  EXPECT_EQ(found.dtype, DType::kBF16);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(LoadFloat(found, static_cast<int64_t>(i)), RoundTo(DType::kBF16, expected[i]));
  }
}

TEST_F(PipelineTest, ShardsDoNotChangeTheTensors) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "one"}).ok());
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "many", .max_shard_bytes = 300000}).ok());
  EXPECT_TRUE(fs::exists(path_ / "many" / "model.safetensors.index.json"));
  const auto one = CheckpointFolder::Open(*root_->OpenFolder("one"));
  const auto many = CheckpointFolder::Open(*root_->OpenFolder("many"));
  ASSERT_TRUE(one.ok() && many.ok());
  ASSERT_EQ((*one)->names().size(), (*many)->names().size());
  for (const std::string& name : (*one)->names()) {
    EXPECT_EQ((*one)->Read(name)->bytes, (*many)->Read(name)->bytes) << name;
  }
}

}  // namespace
}  // namespace quantd
