// Whole checkpoints into GGUF files and from them.
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "formats/atomic_output.h"
#include "formats/gguf/gguf.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "tests/quantizers/pipeline_fixture.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

using GgufPipelineTest = PipelineTest;

// The frequencies of rotary positions are divided by them.
TEST_F(GgufPipelineTest, RefusesRopeFactorsThatAreNoDivisors) {
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

TEST_F(GgufPipelineTest, ImportanceComesFromAFileOfTheRoot) {
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

TEST_F(GgufPipelineTest, ImportanceMustFitTheModel) {
  ImportanceMatrix matrix = ImportanceOfTiny();
  matrix.Add("blk.1.ffn_down.weight", {1, 2, 3}, 1);
  const auto recipe = (*MakeRecipe("gguf", {{"type", "Q4_K_M"}}))
                          ->WithImportance(std::make_shared<ImportanceMatrix>(matrix));
  const auto report = QuantizeCheckpoint(root_, "tiny", *recipe, {.name = "out.gguf"}, control_);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(report.status().message().find("blk.1.ffn_down.weight"), std::string::npos);
  EXPECT_EQ(RootEntries(), (std::vector<std::string>{"tiny"}));
}

// The same blocks as the matrix has in the file that the whole model becomes.
TEST_F(GgufPipelineTest, OneMatrixTakesItsEntryOfAnImportance) {
  const std::string gguf_name = "blk.1.ffn_up.weight", name = "model.layers.1.mlp.up_proj.weight";
  auto output = *AtomicOutput::Create(root_, "m.dat", {.kind = AtomicOutput::Kind::kSingleFile});
  ASSERT_TRUE(WriteImportanceMatrix(ImportanceOfTiny(), *output->CreateFile("m.dat")).ok());
  ASSERT_TRUE(output->Commit().ok());
  std::shared_ptr<const Recipe> recipe =
      *MakeRecipe("gguf", {{"type", "IQ2_XS"}, {"imatrix", "m.dat"}});
  recipe = *ReadImportance(*root_, recipe);
  ASSERT_TRUE(QuantizeCheckpoint(root_, "tiny", *recipe, {.name = "whole.gguf"}, control_).ok());
  const auto whole = *GgufReader::Open(*root_->OpenFile("whole.gguf"));
  const Weight source = *(*OpenModelSource(root_, "tiny"))->Read(name);
  const TensorView weight = std::get<Tensor>(source).view();
  for (const std::string& called : {gguf_name, name}) {
    const auto matrix = QuantizeMatrix(weight, nullptr, *recipe, {}, called);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(matrix->tensors.at(0).tensor.bytes, *whole->Read(gguf_name)) << called;
  }
  const auto refused = [&](absl::string_view called, const TensorView& matrix,
                           const TensorView* calibration = nullptr) {
    return QuantizeMatrix(matrix, calibration, *recipe, {}, called).status();
  };
  EXPECT_EQ(refused("", weight).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status missing = refused("blk.7.ffn_up.weight", weight);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("m.dat has no entry for blk.7.ffn_up.weight"),
            absl::string_view::npos)
      << missing;
  const absl::Status other = refused("blk.1.ffn_down.weight", weight);
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(other.message().find("blk.1.ffn_down.weight, expected 256"), absl::string_view::npos)
      << other;
  EXPECT_EQ(refused(gguf_name, weight, &weight).code(), absl::StatusCode::kInvalidArgument);
}

// A tensor that has the wanted type already is not decoded and quantized again.
TEST_F(GgufPipelineTest, KeepsBlocksOfTheSameType) {
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

TEST_F(GgufPipelineTest, QuantizesASplitGgufAsTheWholeOne) {
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

TEST_F(GgufPipelineTest, SplitGgufsAreNamedByTheirFirstPart) {
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
