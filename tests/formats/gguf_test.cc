#include "formats/gguf/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "formats/gguf/split_name.h"
#include "tests/formats/gguf_bytes.h"
#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

class GgufFileTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<GgufReader>> Open(const std::string& name) {
    ASSIGN_OR_RETURN(auto file, inside_.root()->OpenFile(name));
    return GgufReader::Open(file);
  }
  absl::StatusOr<std::unique_ptr<AtomicOutput>> Create(bool resume = false) {
    return AtomicOutput::Create(
        inside_.root(), "out.gguf",
        {.kind = AtomicOutput::Kind::kSingleFile, .overwrite = true, .keep_partial = resume});
  }
  const TemporaryRoot inside_;
};

TEST_F(GgufFileTest, RewritesAFileByteForByte) {
  const std::string golden = ReadGolden();
  inside_.Write("in.gguf", golden);
  const auto reader = *Open("in.gguf");
  EXPECT_EQ(**reader->header().metadata.String("general.architecture"), "llama");
  auto output = *Create();
  auto writer = *GgufWriter::Create(*output->CreateFile("out.gguf"), reader->header().metadata,
                                    reader->header().tensors);
  for (const GgufTensorInfo& info : reader->header().tensors) {
    ASSERT_TRUE(writer->Add(info.name, *reader->Read(info.name)).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
  ASSERT_TRUE(output->Commit().ok());
  EXPECT_TRUE(inside_.Read("out.gguf") == golden);
}

TEST_F(GgufFileTest, GoesOnWhereAnEarlierRunStopped) {
  inside_.Write("in.gguf", ReadGolden());
  const auto reader = *Open("in.gguf");
  const auto& tensors = reader->header().tensors;
  {
    auto output = *Create();
    auto writer =
        *GgufWriter::Create(*output->CreateFile("out.gguf"), reader->header().metadata, tensors);
    for (size_t i = 0; i < 5; ++i) {
      ASSERT_TRUE(writer->Add(tensors[i].name, *reader->View(tensors[i].name)).ok());
    }
    output->KeepPartial();
  }
  auto output = *Create(/*resume=*/true);
  auto writer =
      *GgufWriter::Create(*output->CreateFile("out.gguf"), reader->header().metadata, tensors);
  for (size_t i = 0; i < 3; ++i) ASSERT_TRUE(writer->Skip(tensors[i].name).ok());
  EXPECT_EQ(writer->Skip(tensors[9].name).code(), StatusCode::kInvalidArgument);
  for (size_t i = 3; i < tensors.size(); ++i) {
    ASSERT_TRUE(writer->Add(tensors[i].name, *reader->View(tensors[i].name)).ok());
  }
  EXPECT_EQ(writer->Skip("more").code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(writer->Finish().ok());
  ASSERT_TRUE(output->Commit().ok());
  EXPECT_TRUE(inside_.Read("out.gguf") == ReadGolden());
}

TEST_F(GgufFileTest, WriterRefusesWhatWasNotAnnounced) {
  auto output = *Create();
  const std::vector<GgufTensorInfo> tensors = {
      {.name = "a", .type = GgmlType::kQ8_0, .shape = {2, 32}},
      {.name = "b", .type = GgmlType::kF32, .shape = {1}}};
  auto writer = *GgufWriter::Create(*output->CreateFile("out.gguf"), {}, tensors);
  EXPECT_EQ(writer->tensors()[0].bytes, 68u);
  EXPECT_EQ(writer->tensors()[1].offset, 96u);
  EXPECT_EQ(writer->Add("b", std::vector<std::byte>(4)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Add("a", std::vector<std::byte>(67)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Skip("a").code(), StatusCode::kDataLoss);
  EXPECT_TRUE(writer->Add("a", std::vector<std::byte>(68)).ok());
  EXPECT_EQ(writer->Finish().code(), StatusCode::kFailedPrecondition);
  for (const GgufTensorInfo& bad :
       {GgufTensorInfo{.name = "x", .type = GgmlType::kQ8_0, .shape = {33}},
        GgufTensorInfo{.name = "", .type = GgmlType::kF32, .shape = {1}},
        GgufTensorInfo{.name = "x", .type = GgmlType::kF32, .shape = {1, 1, 1, 1, 1}},
        GgufTensorInfo{.name = "x", .type = static_cast<GgmlType>(5), .shape = {32}}}) {
    EXPECT_EQ(GgufWriter::Create(*output->CreateFile("y.gguf"), {}, {bad}).status().code(),
              StatusCode::kInvalidArgument);
  }
}

// Parts as llama-gguf-split writes them: everything in the first, only split keys in the others.
class SplitGgufTest : public GgufFileTest {
 protected:
  void WritePart(int number, int count, int64_t total, const std::string& tensor) {
    GgufMetadata metadata;
    if (number == 0) metadata.SetString("general.architecture", "llama");
    metadata.Set("split.no", {GgufValueType::kU16, int64_t{number}});
    metadata.Set("split.count", {GgufValueType::kU16, int64_t{count}});
    metadata.Set("split.tensors.count", {GgufValueType::kI32, total});
    const std::string name = absl::StrFormat("m-%05d-of-%05d.gguf", number + 1, count);
    auto output = *AtomicOutput::Create(
        inside_.root(), name, {.kind = AtomicOutput::Kind::kSingleFile, .overwrite = true});
    std::vector<GgufTensorInfo> tensors;
    if (!tensor.empty()) tensors.push_back({.name = tensor, .shape = {1, 2}});
    auto writer = *GgufWriter::Create(*output->CreateFile(name), metadata, tensors);
    const std::vector<float> values = {static_cast<float>(number), 0.5f};
    if (!tensor.empty()) {
      ASSERT_TRUE(writer->Add(tensor, std::as_bytes(std::span(values))).ok());
    }
    ASSERT_TRUE(writer->Finish().ok());
    ASSERT_TRUE(output->Commit().ok());
  }
  absl::StatusOr<std::unique_ptr<GgufReader>> OpenParts(const std::vector<std::string>& names) {
    std::vector<std::shared_ptr<const File>> files;
    for (const std::string& name : names) {
      ASSIGN_OR_RETURN(files.emplace_back(), inside_.root()->OpenFile(name));
    }
    return GgufReader::OpenSplit(std::move(files));
  }
  const std::vector<std::string> names_ = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                           "m-00003-of-00003.gguf"};
};

TEST_F(SplitGgufTest, ReadsAllPartsAsOne) {
  WritePart(0, 3, 2, "");  // the first may hold metadata only
  WritePart(1, 3, 2, "a");
  WritePart(2, 3, 2, "b");
  const auto reader = OpenParts(names_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->header().tensors.size(), 2u);
  EXPECT_EQ(**(*reader)->header().metadata.String("general.architecture"), "llama");
  EXPECT_EQ((*reader)->header().metadata.Find("split.count"), nullptr);
  for (const auto& [name, first] : {std::pair{"a", 1.0f}, std::pair{"b", 2.0f}}) {
    ASSERT_NE((*reader)->Find(name), nullptr);
    const auto bytes = *(*reader)->Read(name);
    const auto view = *(*reader)->View(name);
    ASSERT_EQ(bytes.size(), 8u);
    EXPECT_EQ(std::memcmp(bytes.data(), &first, 4), 0);
    EXPECT_EQ(std::memcmp(view.data(), &first, 4), 0);
  }
  EXPECT_EQ((*reader)->Read("c").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE((*reader)->CheckIntact().ok());
  std::filesystem::resize_file(inside_.path() / names_[2], 50);
  EXPECT_EQ((*reader)->CheckIntact().code(), StatusCode::kDataLoss);
}

TEST_F(SplitGgufTest, RefusesPartsThatDoNotBelongTogether) {
  WritePart(0, 3, 2, "x");
  WritePart(1, 3, 2, "a");
  WritePart(2, 3, 2, "a");
  EXPECT_THAT(std::string(OpenParts(names_).status().message()), HasSubstr("split.tensors.count"));
  WritePart(0, 3, 2, "");
  EXPECT_THAT(std::string(OpenParts(names_).status().message()), HasSubstr("two parts hold"));
  EXPECT_THAT(std::string(OpenParts({names_[0], names_[2], names_[1]}).status().message()),
              HasSubstr("split.no"));
  EXPECT_THAT(std::string(OpenParts({names_[0], names_[1]}).status().message()),
              HasSubstr("split.count"));
  EXPECT_EQ(Open(names_[0]).status().code(), StatusCode::kInvalidArgument);
}

TEST(SplitNameTest, KnowsItsOwnFormOnly) {
  const auto name = ParseGgufSplitName("big-model-00002-of-00012.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->prefix, "big-model");
  EXPECT_EQ(name->part, 2);
  EXPECT_EQ(name->parts, 12);
  EXPECT_EQ(name->FileName(), "big-model-00002-of-00012.gguf");
  for (const char* other :
       {"m.gguf", "-00001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf",
        "m-0001-of-0002.gguf", "m-00001-of-00002.safetensors", "m_00001-of-00002.gguf",
        "m-00001-of-0000x.gguf"}) {
    EXPECT_FALSE(ParseGgufSplitName(other).has_value()) << other;
  }
}

TEST_F(GgufFileTest, SplitModelsAreNamedAsSuch) {
  const auto split = [](uint16_t count) {
    return Head(0, 1) + Entry("split.count", 2, Raw(count));
  };
  inside_.Write("m.gguf", split(65535));
  inside_.Write("m-00001-of-00002.gguf", split(2));
  inside_.Write("whole.gguf", split(1));
  EXPECT_EQ(Open("m.gguf").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Open("m-00001-of-00002.gguf").status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(Open("whole.gguf").ok());
}

TEST_F(GgufFileTest, ReportsAFileThatWasCut) {
  inside_.Write("in.gguf", ReadGolden());
  const auto reader = *Open("in.gguf");
  const GgufTensorInfo& last = reader->header().tensors.back();
  EXPECT_EQ(reader->Read(last.name)->size(), last.bytes);
  EXPECT_EQ(reader->Read("absent").status().code(), StatusCode::kNotFound);
  std::filesystem::resize_file(inside_.path() / "in.gguf", 5000);
  EXPECT_EQ(reader->Read(last.name).status().code(), StatusCode::kDataLoss);
  const auto view = *reader->View(last.name);
  EXPECT_EQ(view[view.size() - 1], std::byte{0});
  EXPECT_EQ(reader->Lend(last.name)->CheckIntact().code(), StatusCode::kDataLoss);
  EXPECT_EQ(reader->Lend("absent").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(reader->CheckIntact().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantd
