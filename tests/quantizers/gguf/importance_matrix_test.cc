#include "quantizers/codecs/gguf/importance_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "formats/gguf/gguf.h"
#include "tests/formats/temporary_root.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Int(int32_t value) { return {reinterpret_cast<const char*>(&value), sizeof(value)}; }
std::string Text(const std::string& text) { return Int(static_cast<int32_t>(text.size())) + text; }
std::string Floats(const std::vector<float>& values) {
  return Int(static_cast<int32_t>(values.size())) +
         std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

class ImportanceFile : public testing::Test {
 protected:
  absl::StatusOr<ImportanceMatrix> Read(const std::string& name) {
    ASSIGN_OR_RETURN(auto file, root_.root()->directory().OpenFile(name));
    return ReadImportanceMatrix(std::move(file));
  }
  void Write(const ImportanceMatrix& matrix, const std::string& name) {
    auto output =
        *AtomicOutput::Create(root_.root(), name, {.kind = AtomicOutput::Kind::kSingleFile});
    const absl::Status status = WriteImportanceMatrix(matrix, *output->CreateFile(name));
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(output->Commit().ok());
  }
  const TemporaryRoot root_;
};

ImportanceMatrix Example() {
  ImportanceMatrix matrix;
  matrix.Add("blk.0.attn_q.weight", {2, 4, 0}, 1000);
  matrix.Add("blk.0.ffn_down.weight", {512, 0.5f}, 1000);
  matrix.datasets = {"calibration.txt"};
  matrix.chunks = 2;
  matrix.chunk_size = 500;
  return matrix;
}

TEST_F(ImportanceFile, ComesBackFromGguf) {
  Write(Example(), "m.gguf");
  const auto matrix = Read("m.gguf");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->entries().size(), 2u);
  EXPECT_THAT(matrix->entries().at("blk.0.attn_q.weight").sums, ElementsAre(2, 4, 0));
  EXPECT_EQ(matrix->entries().at("blk.0.attn_q.weight").count, 1000);
  EXPECT_THAT(matrix->Find("blk.0.ffn_down.weight"), ElementsAre(0.512f, 0.0005f));
  EXPECT_TRUE(matrix->Find("blk.1.ffn_down.weight").empty());
  EXPECT_THAT(matrix->datasets, ElementsAre("calibration.txt"));
  EXPECT_EQ(matrix->chunks, 2);
  EXPECT_EQ(matrix->chunk_size, 500);
}

TEST_F(ImportanceFile, ComesBackFromDat) {
  Write(Example(), "m.dat");
  // Means times the number of chunks, as llama-imatrix writes them.
  EXPECT_EQ(root_.Read("m.dat"), Int(2) + Text("blk.0.attn_q.weight") + Int(2) +
                                     Floats({0.004f, 0.008f, 0}) + Text("blk.0.ffn_down.weight") +
                                     Int(2) + Floats({1.024f, 0.001f}) + Int(2) +
                                     Text("calibration.txt"));
  const auto matrix = Read("m.dat");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->Find("blk.0.attn_q.weight"), ElementsAre(0.002f, 0.004f, 0));
  EXPECT_THAT(matrix->datasets, ElementsAre("calibration.txt"));
  EXPECT_EQ(matrix->chunks, 2);
}

// What llama-imatrix wrote of one run in its two formats.
TEST_F(ImportanceFile, ReadsAndWritesLlamaImatrixFiles) {
  for (const char* name : {"imatrix.gguf", "imatrix.dat"}) {
    const auto bytes = ReadGoldenFile(std::string("gguf/imatrix/") + name);
    root_.Write(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  const auto gguf = Read("imatrix.gguf"), dat = Read("imatrix.dat");
  ASSERT_TRUE(gguf.ok() && dat.ok()) << gguf.status() << dat.status();
  EXPECT_EQ(gguf->entries().size(), 14u);
  EXPECT_EQ(gguf->entries().at("blk.1.ffn_down.weight").count, 15 * 64);
  EXPECT_EQ(gguf->chunk_size, 64);
  for (const ImportanceMatrix* matrix : {&*gguf, &*dat}) {
    EXPECT_EQ(matrix->chunks, 15);
    EXPECT_THAT(matrix->datasets, ElementsAre("t.txt"));
    EXPECT_EQ(matrix->Find("blk.0.attn_q.weight").size(), 256u);
  }
  Write(*gguf, "gguf.gguf");
  EXPECT_TRUE(root_.Read("gguf.gguf") == root_.Read("imatrix.gguf"));
  Write(*gguf, "gguf.dat");
  EXPECT_TRUE(root_.Read("gguf.dat") == root_.Read("imatrix.dat"));
  Write(*dat, "dat.dat");
  EXPECT_TRUE(root_.Read("dat.dat") == root_.Read("imatrix.dat"));
}

// Files of old versions end after the entries.
TEST(LegacyImportance, NeedsNoTrailer) {
  const std::string entry = Text("a") + Int(0) + Floats({3, 5});
  const auto matrix = ParseLegacyImportanceMatrix(Int(1) + entry);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->Find("a"), ElementsAre(3, 5));
  EXPECT_EQ(matrix->chunks, 0);
}

TEST(LegacyImportance, RefusesWhatIsBroken) {
  const std::string whole = Int(1) + Text("a") + Int(1) + Floats({3, 5}) + Int(7) + Text("d");
  ASSERT_TRUE(ParseLegacyImportanceMatrix(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    // Cut between its parts the trailer is optional.
    const size_t left = whole.size() - size;
    const bool complete = left == 9 || left == 5;
    EXPECT_EQ(ParseLegacyImportanceMatrix(whole.substr(0, size)).ok(), complete) << size;
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::string& bytes :
       {Int(0), Int(-1), Int(1) + Int(-5), Int(1) + Int(1 << 30),
        Int(1) + Text("a") + Int(1) + Int(-1), Int(1) + Text("a") + Int(1) + Int(1 << 30),
        Int(1) + Text("a") + Int(1) + Floats({}), Int(1) + Text("a") + Int(1) + Floats({1, nan}),
        Int(1) + Text("a") + Int(1) + Floats({infinity}),
        Int(1) + Text("a") + Int(1) + Floats({-1})}) {
    EXPECT_EQ(ParseLegacyImportanceMatrix(bytes).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ImportanceFile, RefusesOtherGgufs) {
  const auto write = [&](const std::string& name, const GgufMetadata& metadata,
                         std::vector<GgufTensorInfo> tensors) {
    auto output =
        *AtomicOutput::Create(root_.root(), name, {.kind = AtomicOutput::Kind::kSingleFile});
    auto writer = *GgufWriter::Create(*output->CreateFile(name), metadata, tensors);
    for (const GgufTensorInfo& tensor : writer->tensors()) {
      ASSERT_TRUE(writer->Add(tensor.name, std::vector<std::byte>(tensor.bytes)).ok());
    }
    ASSERT_TRUE(writer->Finish().ok());
    ASSERT_TRUE(output->Commit().ok());
  };
  GgufMetadata metadata;
  const std::vector<GgufTensorInfo> sums = {{.name = "a.in_sum2", .shape = {1, 4}}};
  write("model.gguf", metadata, sums);
  metadata.SetStrings("imatrix.datasets", {"d"});
  metadata.SetU32("imatrix.chunk_count", 1);
  metadata.SetU32("imatrix.chunk_size", 1);
  write("uncounted.gguf", metadata, sums);
  write("uneven.gguf", metadata,
        {{.name = "a.in_sum2", .shape = {1, 4}}, {.name = "a.counts", .shape = {3, 1}}});
  write("empty.gguf", metadata, {{.name = "other", .shape = {1}}});
  root_.Write("text.dat", "GGU");
  for (const char* name :
       {"model.gguf", "uncounted.gguf", "uneven.gguf", "empty.gguf", "text.dat"}) {
    const auto matrix = Read(name);
    EXPECT_EQ(matrix.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(matrix.status().message(), HasSubstr(name));
  }
}

// Several matrices in one tensor have a count each; one without positions counts as equal.
TEST_F(ImportanceFile, DividesExpertsByTheirOwnCounts) {
  auto output =
      *AtomicOutput::Create(root_.root(), "m.gguf", {.kind = AtomicOutput::Kind::kSingleFile});
  GgufMetadata metadata;
  metadata.SetStrings("imatrix.datasets", {"d"});
  metadata.SetU32("imatrix.chunk_count", 1);
  metadata.SetU32("imatrix.chunk_size", 1);
  auto writer = *GgufWriter::Create(
      *output->CreateFile("m.gguf"), metadata,
      {{.name = "a.in_sum2", .shape = {2, 2}}, {.name = "a.counts", .shape = {2, 1}}});
  const std::vector<float> sums = {6, 8, 3, 4}, counts = {2, 0};
  ASSERT_TRUE(writer->Add("a.in_sum2", std::as_bytes(std::span(sums))).ok());
  ASSERT_TRUE(writer->Add("a.counts", std::as_bytes(std::span(counts))).ok());
  ASSERT_TRUE(writer->Finish().ok());
  ASSERT_TRUE(output->Commit().ok());
  const auto matrix = Read("m.gguf");
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->Find("a"), ElementsAre(3, 4, 1, 1));
}

}  // namespace
}  // namespace quantd
