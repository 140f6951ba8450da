#include "formats/gguf/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "formats/gguf/split_name.h"
#include "tests/formats/temporary_root.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
std::string U32(uint32_t value) { return Raw(value); }
std::string U64(uint64_t value) { return Raw(value); }
std::string Str(const std::string& text) { return U64(text.size()) + text; }

std::string Head(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
  return "GGUF" + U32(version) + U64(tensors) + U64(entries);
}
std::string Entry(const std::string& key, uint32_t type, const std::string& value) {
  return Str(key) + U32(type) + value;
}
std::string Info(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                 uint64_t offset) {
  std::string info = Str(name) + U32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) info += U64(dim);
  return info + U32(type) + U64(offset);
}
std::string PadTo32(std::string file) {
  file.resize((file.size() + 31) / 32 * 32);
  return file;
}
// One tensor and `data_bytes` of data behind.
std::string OneTensor(const std::string& info, size_t data_bytes) {
  return PadTo32(Head(1, 0) + info) + std::string(data_bytes, '\0');
}
std::string OneEntry(const std::string& entry) { return Head(0, 1) + entry; }

absl::StatusOr<GgufHeader> Parse(const std::string& file) {
  return ParseGgufHeader(std::as_bytes(std::span(file.data(), file.size())), file.size());
}

struct BadFile {
  const char* what;
  std::string file;
  const char* message;
  StatusCode code = StatusCode::kInvalidArgument;
};

std::vector<BadFile> BadHeads() {
  const StatusCode unimplemented = StatusCode::kUnimplemented;
  return {
      {"empty", "", "magic"},
      {"other magic", "GGML" + U32(3) + U64(0) + U64(0), "expected 'GGUF'"},
      {"version 0", Head(0, 0, 0), "version is 0"},
      {"version 1", Head(0, 0, 1), "big-endian or version", unimplemented},
      {"version 4", Head(0, 0, 4), "version 4", unimplemented},
      {"version 2^32-1", Head(0, 0, UINT32_MAX), "version", unimplemented},
      {"big-endian", Head(0, 0, __builtin_bswap32(3)), "big-endian", unimplemented},
      {"-1 tensors", Head(UINT64_MAX, 0), "cannot hold"},
      {"2^63-1 tensors", Head(INT64_MAX, 0), "cannot hold"},
      {"2^58 tensors", Head(uint64_t{1} << 58, 0), "cannot hold"},
      {"10^9 tensors", Head(1000000000, 0) + std::string(100, 'x'), "cannot hold"},
      {"-1 entries", Head(0, UINT64_MAX), "cannot hold"},
      {"2^58 entries", Head(0, uint64_t{1} << 58), "cannot hold"},
      {"10^9 entries", Head(0, 1000000000) + std::string(100, 'x'), "cannot hold"},
  };
}

std::vector<BadFile> BadMetadata() {
  std::vector<BadFile> files;
  for (const uint64_t length :
       {UINT64_MAX, uint64_t{1} << 63, uint64_t{1} << 30, UINT64_MAX - 19}) {
    const std::string rest = U64(length) + "abcdefgh12345678";
    files.push_back({"key length", OneEntry(rest + U32(4) + U32(1)), "needs"});
    files.push_back({"value length", OneEntry(Str("k") + U32(8) + rest), "needs"});
    files.push_back(
        {"element length", OneEntry(Str("k") + U32(9) + U32(8) + U64(1) + rest), "needs"});
    files.push_back({"name length", Head(1, 0) + rest + std::string(40, '\0'), "needs"});
    files.push_back({"array length", OneEntry(Str("k") + U32(9) + U32(10) + rest), "cannot hold"});
  }
  std::string nested = Str("k") + U32(9);
  for (int i = 0; i < 4000; ++i) nested += U32(9) + U64(1);
  const std::string value = Entry("k", 4, U32(1));
  const std::vector<BadFile> more = {
      {"empty key", OneEntry(Entry("", 4, U32(1))), "empty"},
      {"NUL in a key", OneEntry(Entry(std::string("a\0b", 3), 4, U32(1))), "NUL"},
      {"key of 65536 bytes", OneEntry(Entry(std::string(65536, 'k'), 4, U32(1))), "65536"},
      {"key twice", Head(0, 2) + value + value, "twice"},
      {"type 13", OneEntry(Entry("k", 13, U32(1))), "type 13"},
      {"type -1", OneEntry(Entry("k", UINT32_MAX, U32(1))), "type"},
      {"array of 13", OneEntry(Entry("k", 9, U32(13) + U64(1) + U32(1))), "type 13"},
      {"array of arrays", OneEntry(Entry("k", 9, U32(9) + U64(1) + U32(4) + U64(0))), "arrays"},
      {"4000 nested arrays", OneEntry(nested), "arrays"},
      {"bool 7", OneEntry(Entry("k", 7, "\x07")), "bool"},
      {"bool 7 in an array", OneEntry(Entry("k", 9, U32(7) + U64(1) + "\x07")), "bool"},
      {"array of 2^61 u64", OneEntry(Entry("k", 9, U32(10) + U64(uint64_t{1} << 61))),
       "cannot hold"},
      {"array of 10^9", OneEntry(Entry("k", 9, U32(0) + U64(1000000000) + "xyz")), "cannot hold"},
  };
  files.insert(files.end(), more.begin(), more.end());
  const std::vector<std::pair<uint32_t, std::string>> alignments = {
      {4, U32(0)},    {4, U32(13)}, {4, U32(1u << 31)}, {10, U64(32)}, {10, U64(uint64_t{1} << 63)},
      {8, Str("32")}, {5, U32(32)}};
  for (const auto& [type, bytes] : alignments) {
    files.push_back({"alignment", OneEntry(Entry("general.alignment", type, bytes)), "alignment"});
  }
  return files;
}

std::vector<BadFile> BadTensors() {
  const std::string a = Info("a", {8}, 0, 0);
  const std::string two = PadTo32(Head(2, 0) + a + Info("b", {8}, 0, 32)) + std::string(64, '\0');
  EXPECT_TRUE(Parse(two).ok());
  const auto pair = [](const std::string& first, const std::string& second) {
    return PadTo32(Head(2, 0) + first + second) + std::string(128, '\0');
  };
  return {
      {"name twice", pair(a, a), "twice"},
      {"name of 65 bytes", OneTensor(Info(std::string(65, 'n'), {8}, 0, 0), 32), "65"},
      {"NUL in a name", OneTensor(Info(std::string("a\0b", 3), {8}, 0, 0), 32), "NUL"},
      {"5 dims", OneTensor(Info("a", {1, 1, 1, 1, 1}, 0, 0), 32), "5 dimensions"},
      {"2^32-1 dims", OneTensor(Str("a") + U32(UINT32_MAX) + std::string(64, '\1'), 32),
       "dimensions"},
      {"dim -1", OneTensor(Info("a", {UINT64_MAX}, 0, 0), 32), "dimension 0"},
      {"dim 0", OneTensor(Info("a", {8, 0}, 0, 0), 32), "dimension 1 is 0"},
      {"product wraps", OneTensor(Info("a", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), 32),
       "2^63"},
      {"bytes wrap", OneTensor(Info("a", {uint64_t{1} << 62}, 0, 0), 32), "bytes"},
      {"row is no whole block", OneTensor(Info("a", {33}, 8, 0), 64), "multiple"},
      {"wide row is no whole block", OneTensor(Info("a", {16, 2}, 8, 0), 64), "multiple"},
      {"type 4", OneTensor(Info("a", {32}, 4, 0), 64), "type 4"},
      {"type 5", OneTensor(Info("a", {32}, 5, 0), 64), "type 5"},
      {"type 99", OneTensor(Info("a", {32}, 99, 0), 64), "type 99"},
      {"type -1", OneTensor(Info("a", {32}, UINT32_MAX, 0), 64), "unknown"},
      {"offset past the end", OneTensor(Info("a", {8}, 0, 64), 64), "holds 64"},
      {"offset unaligned", OneTensor(Info("a", {8}, 0, 1), 64), "multiple"},
      {"offset near 2^64", OneTensor(Info("a", {8}, 0, UINT64_MAX - 31), 64), "holds 64"},
      {"overlap", pair(Info("a", {9}, 0, 0), Info("b", {8}, 0, 32)), "overlap"},
      {"same place", pair(a, Info("b", {8}, 0, 0)), "overlap"},
      {"larger than the file", OneTensor(Info("a", {1 << 20}, 0, 0), 64), "holds 64"},
      {"no data at all", Head(1, 0) + a, "holds 0"},
  };
}

TEST(GgufHeader, RefusesBrokenFiles) {
  for (const auto& table : {BadMetadata(), BadTensors()}) {
    for (const BadFile& bad : table) {
      const absl::Status status = Parse(bad.file).status();
      EXPECT_EQ(status.code(), bad.code) << bad.what << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.what;
      EXPECT_LT(status.message().size(), 800u) << bad.what;
    }
  }
  for (const BadFile& bad : BadHeads()) {
    EXPECT_EQ(Parse(bad.file).status().code(), bad.code) << bad.what;
  }
}

std::string ReadGolden() {
  std::ifstream stream(TestData("golden/gguf/model-q2_k/model.gguf"), std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(GgufHeader, RefusesEveryCutOfAGoodFile) {
  const std::string golden = ReadGolden();
  const uint64_t data_offset = Parse(golden)->data_offset;
  for (size_t size = 0; size < data_offset + 100; size += size < 500 ? 1 : 37) {
    EXPECT_EQ(Parse(golden.substr(0, size)).status().code(), StatusCode::kInvalidArgument) << size;
  }
  EXPECT_EQ(Parse(golden.substr(0, golden.size() - 300)).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(GgufHeader, AsksForMoreOfTheFile) {
  const std::string golden = ReadGolden();
  const auto bytes = std::as_bytes(std::span(golden.data(), golden.size()));
  EXPECT_EQ(ParseGgufHeader(bytes.first(1000), golden.size()).status().code(),
            StatusCode::kOutOfRange);
  EXPECT_TRUE(ParseGgufHeader(bytes.first(Parse(golden)->data_offset), golden.size()).ok());
}

TEST(GgufHeader, AcceptsWhatTheFormatAllows) {
  const std::string file =
      PadTo32(Head(3, 2, 2) + Entry("general.alignment", 4, U32(64)) +
              Entry("odd bytes", 8, Str(std::string("\xff\0\n", 3))) +
              Info(std::string(64, 'n'), {}, 0, 0) + Info("later", {1, 31}, 24, 128) +
              Info("blocks", {256, 1, 3}, 12, 192));
  std::string padded = file;
  padded.resize((file.size() + 63) / 64 * 64 + 192 + 3 * 144);
  const auto header = Parse(padded);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->alignment, 64u);
  EXPECT_EQ(header->tensors[0].bytes, 4u);
  EXPECT_EQ(header->tensors[1].shape, (Shape{31, 1}));
  EXPECT_EQ(header->tensors[2].bytes, 3u * 144);
  EXPECT_EQ(*header->metadata.String("odd bytes"), std::string("\xff\0\n", 3));
}

// 10^5 keys and 50 000 tokens: with a linear search for duplicates this test would take minutes.
TEST(GgufHeader, ReadsManyKeysAndLongArrays) {
  std::string file = Head(0, 100001);
  for (int i = 0; i < 100000; ++i) file += Entry(absl::StrCat("key.", i), 4, U32(1));
  std::string tokens = U32(8) + U64(50000);
  for (int i = 0; i < 50000; ++i) tokens += Str(absl::StrCat("token", i));
  file += Entry("tokenizer.ggml.tokens", 9, tokens);
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufArray* array = *header->metadata.Array("tokenizer.ggml.tokens", GgufValueType::kString);
  EXPECT_EQ(array->strings[49999], "token49999");
}

TEST(GgufMetadata, NamesKeyAndTypesWhenTheyDiffer) {
  GgufMetadata metadata;
  metadata.SetU32("n", 7);
  metadata.SetString("s", "text");
  metadata.SetBool("b", true);
  metadata.SetF32("f", 0.5f);
  metadata.Set("big", {GgufValueType::kU64, int64_t{-1}});
  EXPECT_EQ(**metadata.Integer("n"), 7);
  EXPECT_EQ(**metadata.Number("n"), 7);
  EXPECT_EQ(**metadata.Number("f"), 0.5);
  EXPECT_EQ(**metadata.Bool("b"), true);
  EXPECT_FALSE(metadata.Integer("absent")->has_value());
  for (const absl::Status& status :
       {metadata.Integer("s").status(), metadata.Integer("b").status(),
        metadata.Integer("f").status(), metadata.String("n").status(), metadata.Bool("n").status(),
        metadata.Number("s").status(), metadata.Integer("big").status(),
        metadata.Array("s", GgufValueType::kString).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("GGUF key '"));
  }
  metadata.SetU32("n", 8);
  EXPECT_EQ(metadata.entries().front().first, "n");
  metadata.Erase("n");
  EXPECT_EQ(metadata.entries().front().first, "s");
}

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
  EXPECT_EQ(reader->CheckIntact().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantd
