// Headers of GGUF files made by hand: what the format forbids, what it allows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "formats/gguf/gguf.h"
#include "tests/formats/gguf_bytes.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

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

}  // namespace
}  // namespace quantd
