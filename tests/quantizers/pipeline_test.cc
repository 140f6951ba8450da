// Whole checkpoints through the pipeline, on the tiny Llama of the golden data.
#include "quantizers/pipeline.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/float_types.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

const std::map<std::string, std::string> kNf4 = {{"load_in_4bit", "true"},
                                                 {"bnb_4bit_quant_type", "nf4"}};

class Pipeline : public testing::Test {
 protected:
  void SetUp() override {
    path_ =
        fs::path(testing::TempDir()) /
        (std::string("pipeline-") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(path_);
    fs::create_directories(path_ / "tiny");
    const fs::path golden = TestData("golden/tiny-llama");
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
      if (fs::exists(golden / name)) fs::copy_file(golden / name, path_ / "tiny" / name);
    }
    auto root = ModelRoot::Open(path_.string());
    ASSERT_TRUE(root.ok()) << root.status();
    root_ = *root;
  }
  void TearDown() override { fs::remove_all(path_); }

  absl::StatusOr<QuantizeReport> Quantize(const std::string& method,
                                          const std::map<std::string, std::string>& options,
                                          OutputOptions output) {
    auto recipe = MakeRecipe(method, options);
    if (!recipe.ok()) return recipe.status();
    return QuantizeCheckpoint(root_, "tiny", **recipe, output, control_);
  }

  // Every file under a folder (or the one file), by relative name.
  Files Read(const std::string& name) const {
    Files files;
    const auto add = [&files](const fs::path& file, const std::string& key) {
      std::ifstream stream(file, std::ios::binary);
      files[key] = std::string(std::istreambuf_iterator<char>(stream), {});
    };
    if (fs::is_regular_file(path_ / name)) {
      add(path_ / name, name);
      return files;
    }
    for (const auto& entry : fs::recursive_directory_iterator(path_ / name)) {
      if (entry.is_regular_file()) {
        add(entry.path(), fs::relative(entry.path(), path_ / name).string());
      }
    }
    return files;
  }

  std::vector<std::string> RootEntries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  // Stops the job after `tensors` parameters.
  void DrainAfter(int64_t tensors) {
    control_.on_progress = [this, tensors](const QuantizeProgress& progress) {
      if (progress.tensors_done == tensors) control_.drain = true;
    };
  }
  void Continue() {
    control_.drain = false;
    control_.on_progress = nullptr;
  }

  fs::path path_;
  std::shared_ptr<const ModelRoot> root_;
  JobControl control_;
};

TEST_F(Pipeline, WritesACheckpointThatOpensAgain) {
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

// torchao's loader takes the texts of whichever shard it reads last.
TEST_F(Pipeline, EveryShardCarriesTheCodecsHeaderTexts) {
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

TEST_F(Pipeline, OnTheFlyGivesWhatTheCheckpointHolds) {
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

TEST_F(Pipeline, CancelLeavesNothing) {
  control_.on_progress = [this](const QuantizeProgress& progress) {
    if (progress.tensors_done == 5) control_.cancel = true;
  };
  const auto report = Quantize("bitsandbytes", kNf4, {.name = "out"});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

TEST_F(Pipeline, ADrainedFolderJobResumesToTheSameBytes) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "whole"}).ok());
  DrainAfter(7);
  const auto stopped = Quantize("bitsandbytes", kNf4, {.name = "parts"});
  EXPECT_EQ(stopped.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Quantize("bitsandbytes", {{"load_in_4bit", "true"}, {"bnb_4bit_quant_type", "fp4"}},
                     {.name = "parts", .resume = true})
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
  Continue();
  const auto resumed = Quantize("bitsandbytes", kNf4, {.name = "parts", .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(Read("parts"), Read("whole"));
}

TEST_F(Pipeline, ADrainedGgufJobResumesToTheSameBytes) {
  ASSERT_TRUE(Quantize("gguf", {{"type", "Q4_0"}}, {.name = "whole.gguf"}).ok());
  DrainAfter(4);
  EXPECT_EQ(Quantize("gguf", {{"type", "Q4_0"}}, {.name = "parts.gguf"}).status().code(),
            absl::StatusCode::kAborted);
  Continue();
  const auto resumed = Quantize("gguf", {{"type", "Q4_0"}}, {.name = "parts.gguf", .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(Read("parts.gguf")["parts.gguf"], Read("whole.gguf")["whole.gguf"]);
}

// The frequencies of rotary positions are divided by them.
TEST_F(Pipeline, RefusesRopeFactorsThatAreNoDivisors) {
  const auto golden = *ModelRoot::Open(TestData("golden/gguf"));
  const auto reader =
      *GgufReader::Open(*(*golden->OpenFolder("model-q2_k"))->OpenFile("model.gguf"));
  std::vector<GgufTensorInfo> tensors = reader->header().tensors;
  tensors.push_back({.name = "rope_freqs.weight", .type = GgmlType::kF32, .shape = {32}});
  std::vector<float> divisors(32, 1.0f);
  for (const float bad : {1.0f, 0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    divisors[5] = bad;
    auto output = *AtomicOutput::Create(
        root_, "m.gguf", {.kind = AtomicOutput::Kind::kSingleFile, .overwrite = true});
    auto writer =
        *GgufWriter::Create(*output->CreateFile("m.gguf"), reader->header().metadata, tensors);
    for (const GgufTensorInfo& tensor : reader->header().tensors) {
      ASSERT_TRUE(writer->Add(tensor.name, *reader->View(tensor.name)).ok());
    }
    ASSERT_TRUE(writer->Add("rope_freqs.weight", std::as_bytes(std::span(divisors))).ok());
    ASSERT_TRUE(writer->Finish().ok() && output->Commit().ok());
    const absl::Status status = OpenModelSource(root_, "m.gguf").status();
    if (bad == 1) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find("rope_freqs.weight"), absl::string_view::npos) << status;
  }
}

TEST_F(Pipeline, RefusesAnExistingOutput) {
  ASSERT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out"}).ok());
  const Files before = Read("out");
  EXPECT_EQ(Quantize("bitsandbytes", kNf4, {.name = "out"}).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Read("out"), before);
  EXPECT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "out", .overwrite = true}).ok());
}

TEST_F(Pipeline, RefusesWhatCannotWorkBeforeAnOutputExists) {
  const auto indivisible =
      Quantize("compressed-tensors", {{"bits", "4"}, {"group_size", "96"}}, {.name = "out"});
  EXPECT_EQ(indivisible.status().code(), absl::StatusCode::kInvalidArgument)
      << indivisible.status();
  EXPECT_EQ(Quantize("bitsandbytes", kNf4, {.name = "../out"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

// Puts `value` at element 1234 of one matrix of the source.
// Doubtful configurations of checkpoints whose matrices are all stored plain: nothing else would
// look at these fields.
TEST_F(Pipeline, RefusesDoubtfulConfigurationsOfAPlainCheckpoint) {
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

void Poison(const fs::path& checkpoint, float value) {
  const std::shared_ptr<ModelRoot> root = *ModelRoot::Open(checkpoint.parent_path().string());
  const auto folder = CheckpointFolder::Open(*root->OpenFolder("tiny"));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const std::string& name : (*folder)->names()) {
    Tensor tensor = *(*folder)->Read(name);
    if (name == "model.layers.0.mlp.up_proj.weight") {
      StoreFloats(tensor.dtype, &value, 1, tensor.bytes.data() + 1234 * SizeOf(tensor.dtype));
    }
    tensors.emplace_back(name, std::move(tensor));
  }
  const std::vector<std::byte> bytes = *SerializeSafetensors(tensors, {});
  std::ofstream(checkpoint / "model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

TEST_F(Pipeline, NamesTensorAndPositionOfNonFiniteWeights) {
  Poison(path_ / "tiny", std::numeric_limits<float>::quiet_NaN());
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

TEST_F(Pipeline, DequantizesIntoAPlainCheckpoint) {
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

TEST_F(Pipeline, ShardsDoNotChangeTheTensors) {
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

// An importance for every matrix of the tiny Llama's layers, different for each column.
ImportanceMatrix ImportanceOfTiny() {
  ImportanceMatrix matrix;
  for (const char* layer : {"blk.0.", "blk.1."}) {
    for (const auto& [name, cols] : {std::pair{"attn_q", 256},
                                     {"attn_k", 256},
                                     {"attn_v", 256},
                                     {"attn_output", 256},
                                     {"ffn_gate", 256},
                                     {"ffn_up", 256},
                                     {"ffn_down", 512}}) {
      std::vector<float> sums(static_cast<size_t>(cols));
      for (int c = 0; c < cols; ++c) sums[c] = static_cast<float>(1 + c % 7);
      matrix.Add(absl::StrCat(layer, name, ".weight"), std::move(sums), 3);
    }
  }
  matrix.chunks = 1;
  return matrix;
}

TEST_F(Pipeline, ImportanceComesFromAFileOfTheRoot) {
  // The lowest types cannot do without.
  const auto refused = Quantize("gguf", {{"type", "IQ2_XS"}}, {.name = "out.gguf"});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("importance matrix"), std::string::npos);

  auto output = *AtomicOutput::Create(root_, "m.dat", {.kind = AtomicOutput::Kind::kSingleFile});
  ASSERT_TRUE(WriteImportanceMatrix(ImportanceOfTiny(), *output->CreateFile("m.dat")).ok());
  ASSERT_TRUE(output->Commit().ok());
  const auto recipe_of = [this](const std::string& type, const std::string& file) {
    std::shared_ptr<const Recipe> recipe = *MakeRecipe("gguf", {{"type", type}, {"imatrix", file}});
    return ReadImportance(*root_, std::move(recipe));
  };
  EXPECT_EQ(recipe_of("IQ2_XS", "absent.dat").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(recipe_of("IQ2_XS", "../m.dat").status().code(), absl::StatusCode::kInvalidArgument);

  const auto recipe = recipe_of("IQ2_XS", "m.dat");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto report = QuantizeCheckpoint(root_, "tiny", **recipe, {.name = "out.gguf"}, control_);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto source = OpenModelSource(root_, "out.gguf");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(**(*source)->gguf_metadata()->String("quantize.imatrix.file"), "m.dat");
  EXPECT_EQ(**(*source)->gguf_metadata()->Integer("quantize.imatrix.entries_count"), 14);

  // Weighed by it, the codes are others than without.
  ASSERT_TRUE(Quantize("gguf", {{"type", "Q4_0"}}, {.name = "plain.gguf"}).ok());
  ASSERT_TRUE(QuantizeCheckpoint(root_, "tiny", **recipe_of("Q4_0", "m.dat"),
                                 {.name = "weighed.gguf"}, control_)
                  .ok());
  const std::string name = "model.layers.1.self_attn.v_proj.weight";
  const auto plain = *(*OpenModelSource(root_, "plain.gguf"))->Read(name);
  const auto weighed = *(*OpenModelSource(root_, "weighed.gguf"))->Read(name);
  EXPECT_NE(std::get<QuantizedTensor>(plain).scale, std::get<QuantizedTensor>(weighed).scale);
}

TEST_F(Pipeline, ImportanceMustFitTheModel) {
  ImportanceMatrix matrix = ImportanceOfTiny();
  matrix.Add("blk.1.ffn_down.weight", {1, 2, 3}, 1);
  const auto recipe = (*MakeRecipe("gguf", {{"type", "Q4_K_M"}}))
                          ->WithImportance(std::make_shared<ImportanceMatrix>(matrix));
  const auto report = QuantizeCheckpoint(root_, "tiny", *recipe, {.name = "out.gguf"}, control_);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(report.status().message().find("blk.1.ffn_down.weight"), std::string::npos);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

// A tensor that has the wanted type already is not decoded and quantized again.
TEST_F(Pipeline, KeepsBlocksOfTheSameType) {
  ASSERT_TRUE(Quantize("gguf", {{"type", "Q2_K"}}, {.name = "a.gguf"}).ok());
  const auto recipe = *MakeRecipe("gguf", {{"type", "Q2_K"}});
  const auto report = QuantizeCheckpoint(root_, "a.gguf", *recipe, {.name = "b.gguf"}, control_);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto a = OpenModelSource(root_, "a.gguf"), b = OpenModelSource(root_, "b.gguf");
  for (const SourceParameter& parameter : (*a)->parameters()) {
    if (!parameter.is_quantized) continue;
    const Weight left = *(*a)->Read(parameter.name), right = *(*b)->Read(parameter.name);
    EXPECT_EQ(std::get<QuantizedTensor>(left).codes, std::get<QuantizedTensor>(right).codes)
        << parameter.name;
  }
}

TEST_F(Pipeline, QuantizesASplitGgufAsTheWholeOne) {
  ASSERT_TRUE(Quantize("gguf", {{"type", "F32"}}, {.name = "whole.gguf"}).ok());
  const auto whole = *GgufReader::Open(*root_->OpenFile("whole.gguf"));
  const std::vector<GgufTensorInfo>& all = whole->header().tensors;
  for (int64_t part = 0; part < 2; ++part) {
    GgufMetadata metadata = part == 0 ? whole->header().metadata : GgufMetadata();
    metadata.Set("split.no", {GgufValueType::kU16, part});
    metadata.Set("split.count", {GgufValueType::kU16, int64_t{2}});
    metadata.Set("split.tensors.count", {GgufValueType::kI32, static_cast<int64_t>(all.size())});
    const auto middle = all.begin() + 5;
    const std::vector<GgufTensorInfo> tensors(part == 0 ? all.begin() : middle,
                                              part == 0 ? middle : all.end());
    const std::string name = absl::StrCat("s-0000", part + 1, "-of-00002.gguf");
    auto output = *AtomicOutput::Create(root_, name, {.kind = AtomicOutput::Kind::kSingleFile});
    auto writer = *GgufWriter::Create(*output->CreateFile(name), metadata, tensors);
    for (const GgufTensorInfo& tensor : tensors) {
      ASSERT_TRUE(writer->Add(tensor.name, *whole->Read(tensor.name)).ok());
    }
    ASSERT_TRUE(writer->Finish().ok());
    ASSERT_TRUE(output->Commit().ok());
  }
  const auto recipe = *MakeRecipe("gguf", {{"type", "Q4_K_M"}});
  for (const auto& [from, to] :
       {std::pair{"whole.gguf", "a.gguf"}, {"s-00001-of-00002.gguf", "b.gguf"}}) {
    const auto report = QuantizeCheckpoint(root_, from, *recipe, {.name = to}, control_);
    ASSERT_TRUE(report.ok()) << report.status();
  }
  EXPECT_TRUE(Read("a.gguf")["a.gguf"] == Read("b.gguf")["b.gguf"]);
}

TEST_F(Pipeline, SplitGgufsAreNamedByTheirFirstPart) {
  ASSERT_TRUE(Quantize("gguf", {{"type", "Q8_0"}}, {.name = "whole.gguf"}).ok());
  for (const char* part : {"s-00001-of-00002.gguf", "s-00002-of-00002.gguf"}) {
    fs::copy_file(path_ / "whole.gguf", path_ / part);
  }
  EXPECT_EQ(OpenModelSource(root_, "s-00002-of-00002.gguf").status().code(),
            absl::StatusCode::kInvalidArgument);
  // Copies of a whole model do not say that they are parts.
  EXPECT_EQ(OpenModelSource(root_, "s-00001-of-00002.gguf").status().code(),
            absl::StatusCode::kInvalidArgument);
  fs::remove(path_ / "s-00002-of-00002.gguf");
  const auto missing = OpenModelSource(root_, "s-00001-of-00002.gguf");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("s-00002-of-00002.gguf is missing"), std::string::npos);
}

}  // namespace
}  // namespace quantd
