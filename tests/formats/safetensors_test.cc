#include "formats/safetensors/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "formats/mapped_file.h"
#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::byte> ToBytes(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

// A file of this header and `data_bytes` zeros.
std::string FileOf(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\0');
}

std::string WithLength(uint64_t length, const std::string& rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + rest;
}

std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return absl::StrCat("{\"dtype\":", dtype, ",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return absl::StrCat("{\"a\":", Entry(dtype, shape, offsets), "}");
}

absl::Status StatusOf(const std::string& file) {
  return SafetensorsReader::FromBytes(ToBytes(file)).status();
}

struct BadFile {
  const char* what;
  std::string file;
  const char* message;  // part of it
  StatusCode code = StatusCode::kInvalidArgument;
};

std::vector<BadFile> BadLengths() {
  const std::string good = One("\"U8\"", "[1]", "[0,1]");
  return {
      {"empty", "", "at least 8"},
      {"seven bytes", "1234567", "at least 8"},
      {"length 0", WithLength(0, "{}"), "header length is 0"},
      {"length past the end", WithLength(9, "{}"), "header length is 9"},
      {"length 2^64-1", WithLength(UINT64_MAX, good), "header length"},
      {"length 2^64-8", WithLength(UINT64_MAX - 7, good), "header length"},
      {"length over 100 MB", WithLength(100'000'001, good), "header length"},
      {"length 99 MB of 60 bytes", WithLength(99'000'000, good), "header length"},
      {"big-endian length", WithLength(__builtin_bswap64(good.size()), good), "header length"},
      {"GGUF", std::string("GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16), "GGUF"},
      {"zip", std::string("PK\3\4\0\0\0\0\0\0\0\0", 12), "zip"},
      {"pickle", std::string("\x80\2}q\0X\1\0\0\0a", 12), "pickle"},
  };
}

std::vector<BadFile> BadJson() {
  const std::string good = One("\"U8\"", "[1]", "[0,1]");
  const std::string entry = Entry("\"U8\"", "[1]", "[0,1]");
  std::string deep_array = "{\"a\":{\"x\":" + std::string(10000, '[');
  std::string deep_object = "{\"a\":";
  for (int i = 0; i < 60000; ++i) deep_object += "{\"a\":";
  return {
      {"root array", FileOf("[1]", 0), "'{'"},
      {"leading space", FileOf(" " + good, 1), "'{'"},
      {"BOM", FileOf("\xef\xbb\xbf" + good, 1), "'{'"},
      {"only spaces", FileOf("    ", 0), "'{'"},
      {"NUL padding", FileOf(good + std::string(3, '\0'), 1), "JSON"},
      {"invalid UTF-8", FileOf("{\"\xff\":" + entry + "}", 1), "JSON"},
      {"overlong UTF-8", FileOf("{\"\xc0\xaf\":" + entry + "}", 1), "JSON"},
      {"surrogate bytes", FileOf("{\"\xed\xa0\x80\":" + entry + "}", 1), "JSON"},
      {"lone surrogate", FileOf("{\"\\ud800\":" + entry + "}", 1), "JSON"},
      {"cut", FileOf(good.substr(0, good.size() - 1), 1), "JSON"},
      {"comment", FileOf("{/*x*/" + good.substr(1), 1), "JSON"},
      {"trailing comma", FileOf(good.substr(0, good.size() - 1) + ",}", 1), "JSON"},
      {"leading zero", FileOf(One("\"U8\"", "[01]", "[0,1]"), 1), "JSON"},
      {"NaN", FileOf(One("\"U8\"", "[NaN]", "[0,1]"), 1), "JSON"},
      {"control character", FileOf("{\"a\n\":" + entry + "}", 1), "JSON"},
      {"junk behind", FileOf(good + "x", 1), "JSON"},
      {"deep arrays", FileOf(deep_array, 0), "deep"},
      {"deep objects", FileOf(deep_object, 0), "expected"},
      {"string without end", FileOf("{\"" + std::string(3 << 20, 'a'), 0), "JSON"},
      {"same name", FileOf("{\"a\":" + entry + ",\"a\":" + entry + "}", 1), "twice"},
      {"same name escaped", FileOf("{\"a\":" + entry + ",\"\\u0061\":" + entry + "}", 1), "twice"},
      {"same field",
       FileOf("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],"
              "\"data_offsets\":[0,1]}}",
              1),
       "twice"},
      {"metadata twice", FileOf("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "twice"},
      {"metadata key twice", FileOf("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0), "twice"},
      {"metadata number", FileOf("{\"__metadata__\":{\"a\":1}}", 0), "expected a string"},
      {"metadata object", FileOf("{\"__metadata__\":{\"a\":{}}}", 0), "expected a string"},
      {"metadata array", FileOf("{\"__metadata__\":[]}", 0), "expected an object"},
  };
}

std::vector<BadFile> BadEntries() {
  return {
      {"null entry", FileOf("{\"a\":null}", 0), "expected an object"},
      {"array entry", FileOf("{\"a\":[]}", 0), "expected an object"},
      {"string entry", FileOf("{\"a\":\"b\"}", 0), "expected an object"},
      {"number entry", FileOf("{\"a\":1}", 0), "expected an object"},
      {"no dtype", FileOf("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "dtype is missing"},
      {"no shape", FileOf("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1),
       "shape is missing"},
      {"no offsets", FileOf("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1),
       "data_offsets is missing"},
      {"unknown dtype", FileOf(One("\"Q8\"", "[1]", "[0,1]"), 1), "dtype 'Q8' is unknown"},
      {"lower case dtype", FileOf(One("\"f32\"", "[1]", "[0,4]"), 4), "unknown"},
      {"number dtype", FileOf(One("3", "[1]", "[0,1]"), 1), "dtype is"},
      {"null dtype", FileOf(One("null", "[1]", "[0,1]"), 1), "dtype is null"},
      {"foreign dtype", FileOf(One("\"C64\"", "[1]", "[0,8]"), 8), "C64",
       StatusCode::kUnimplemented},
      {"half byte", FileOf(One("\"F4\"", "[3]", "[0,2]"), 2), "whole bytes"},
      {"negative dim", FileOf(One("\"U8\"", "[-1]", "[0,1]"), 1), "negative"},
      {"two negatives", FileOf(One("\"U8\"", "[-2,-3]", "[0,6]"), 6), "negative"},
      {"float dim", FileOf(One("\"U8\"", "[1.0]", "[0,1]"), 1), "shape"},
      {"bool dim", FileOf(One("\"U8\"", "[true]", "[0,1]"), 1), "shape"},
      {"string dim", FileOf(One("\"U8\"", "[\"1\"]", "[0,1]"), 1), "shape"},
      {"null dim", FileOf(One("\"U8\"", "[null]", "[0,1]"), 1), "shape"},
      {"nested dim", FileOf(One("\"U8\"", "[[1]]", "[0,1]"), 1), "shape"},
      {"shape number", FileOf(One("\"U8\"", "1", "[0,1]"), 1), "shape"},
      {"shape object", FileOf(One("\"U8\"", "{}", "[0,1]"), 1), "shape"},
      {"shape null", FileOf(One("\"U8\"", "null", "[0,1]"), 1), "shape"},
      {"rank 9", FileOf(One("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1), "dimensions"},
      {"product wraps to 0", FileOf(One("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0), "2^63"},
      {"bytes wrap", FileOf(One("\"U64\"", "[2305843009213693953]", "[0,8]"), 8), "bytes"},
      {"dim 2^64", FileOf(One("\"U8\"", "[18446744073709551616]", "[0,1]"), 1), "64-bit"},
      {"dim 2^64-1", FileOf(One("\"U8\"", "[18446744073709551615]", "[0,1]"), 1), "2^63"},
      {"one offset", FileOf(One("\"U8\"", "[1]", "[0]"), 1), "expected 2"},
      {"three offsets", FileOf(One("\"U8\"", "[1]", "[0,1,1]"), 1), "expected 2"},
      {"negative offset", FileOf(One("\"U8\"", "[1]", "[-1,0]"), 1), "negative"},
      {"reversed offsets", FileOf(One("\"U8\"", "[1]", "[1,0]"), 1), "reversed"},
      {"float offset", FileOf(One("\"U8\"", "[1]", "[0,1.0]"), 1), "offsets"},
      {"past the end", FileOf(One("\"U8\"", "[9]", "[0,9]"), 1), "past the end"},
      {"near 2^64", FileOf(One("\"U8\"", "[1]", "[18446744073709551614,18446744073709551615]"), 1),
       "hole"},
      {"size is not the shape's", FileOf(One("\"F32\"", "[1]", "[0,3]"), 3), "needs 4"},
      {"data cut", FileOf(One("\"F32\"", "[2]", "[0,8]"), 7), "past the end"},
      {"hole in front", FileOf(One("\"U8\"", "[1]", "[1,2]"), 2), "hole"},
      {"bytes behind", FileOf(One("\"U8\"", "[1]", "[0,1]"), 9), "follow"},
      {"hole between",
       FileOf("{\"a\":" + Entry("\"U8\"", "[1]", "[0,1]") +
                  ",\"b\":" + Entry("\"U8\"", "[1]", "[2,3]") + "}",
              3),
       "hole"},
      {"same range",
       FileOf("{\"a\":" + Entry("\"U8\"", "[1]", "[0,1]") +
                  ",\"b\":" + Entry("\"U8\"", "[1]", "[0,1]") + "}",
              1),
       "overlap"},
      {"overlap",
       FileOf("{\"a\":" + Entry("\"U8\"", "[2]", "[0,2]") +
                  ",\"b\":" + Entry("\"U8\"", "[2]", "[1,3]") + "}",
              3),
       "overlap"},
  };
}

TEST(SafetensorsReader, RefusesBrokenFiles) {
  for (const auto& table : {BadLengths(), BadJson(), BadEntries()}) {
    for (const BadFile& bad : table) {
      const absl::Status status = StatusOf(bad.file);
      EXPECT_EQ(status.code(), bad.code) << bad.what << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.what;
      EXPECT_LT(status.message().size(), 600u) << bad.what;
    }
  }
}

TEST(SafetensorsReader, RefusesEveryCutOfAGoodFile) {
  const auto good = *SerializeSafetensors(
      {{"weight", TensorOf<float>(DType::kF32, {3, 1}, std::vector<float>{1, 2, 3})}},
      {{"k", "v"}});
  for (size_t size = 0; size < good.size(); ++size) {
    const std::vector<std::byte> cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_EQ(SafetensorsReader::FromBytes(cut).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(SafetensorsReader, Refuses600TensorsOnOneRange) {
  std::string header = "{";
  for (int i = 0; i < 600; ++i) {
    absl::StrAppend(&header, i ? "," : "", "\"t", i, "\":", Entry("\"U8\"", "[4]", "[0,4]"));
  }
  EXPECT_EQ(StatusOf(FileOf(header + "}", 4)).code(), StatusCode::kInvalidArgument);
}

TEST(SafetensorsReader, AcceptsEverythingTheFormatAllows) {
  const std::string long_name(4000, 'n');
  const std::string header = absl::StrCat(
      "{\"z\":", Entry("\"F32\"", "[1]", "[1,5]"),
      ",\"../../etc/passwd\":", Entry("\"BOOL\"", "[]", "[0,1]"),
      ",\"empty\":", Entry("\"F64\"", "[0,7]", "[5,5]"),
      ",\"\\u00e4\\\"\":", Entry("\"I8\"", "[1]", "[5,6]"), ",\"", long_name,
      "\":", Entry("\"F8_E4M3\"", "[1,1,1,1,1,1,1,1]", "[6,7]"), ",\"n\\u0000ul\":",
      "{\"data_offsets\":[7,8],\"shape\":[1],\"dtype\":\"U8\",\"extra\":{\"x\":[1,{}]}},",
      "\"__metadata__\":{\"format\":\"pt\"}}    ");
  std::string file = FileOf(header, 8);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(file.data() + file.size() - 7, &nan, 4);
  file[file.size() - 8] = 2;  // a bool of 2 is kept as it is
  const auto reader = *SafetensorsReader::FromBytes(ToBytes(file));
  EXPECT_EQ(reader->header().tensors.size(), 6u);
  EXPECT_EQ(reader->header().metadata.at("format"), "pt");
  EXPECT_EQ(reader->Read("../../etc/passwd")->bytes, std::vector<std::byte>{std::byte{2}});
  EXPECT_EQ(reader->Read("z")->shape, Shape{1});
  EXPECT_EQ(std::memcmp(reader->View("z")->bytes.data(), &nan, 4), 0);
  EXPECT_EQ(reader->Read("empty")->bytes.size(), 0u);
  EXPECT_NE(reader->Find("\xc3\xa4\""), nullptr);
  EXPECT_NE(reader->Find(absl::string_view("n\0ul", 4)), nullptr);
  EXPECT_EQ(reader->Find("n"), nullptr);
  EXPECT_NE(reader->Find(long_name), nullptr);
  EXPECT_EQ(reader->Read("absent").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(StatusOf(FileOf("{}", 0)).ok());
}

TEST(SafetensorsReader, NamesTheFileAndNotItsPath) {
  const TemporaryRoot inside;
  inside.Write("model/model.safetensors", WithLength(0, "{}"));
  const auto folder = *inside.root()->OpenFolder("model");
  const absl::Status status =
      SafetensorsReader::Open(*folder->OpenFile("model.safetensors")).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'model/model.safetensors'"));
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr(inside.path().string())));
}

TEST(SafetensorsReader, ReportsAFileThatWasCut) {
  const TemporaryRoot inside;
  const auto bytes = *SerializeSafetensors(
      {{"w", TensorOf<float>(DType::kF32, {33}, std::vector<float>(33, 1.5f))}}, {});
  inside.Write("m.safetensors",
               std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  const auto reader = *SafetensorsReader::Open(*inside.root()->OpenFile("m.safetensors"));
  EXPECT_TRUE(reader->Read("w").ok());
  const SharedTensor lent = *reader->Lend("w");
  EXPECT_TRUE(lent.CheckIntact().ok());
  std::filesystem::resize_file(inside.path() / "m.safetensors", 20);
  EXPECT_EQ(reader->Read("w").status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(reader->CheckIntact().code(), StatusCode::kDataLoss);
  EXPECT_EQ(lent.CheckIntact().code(), StatusCode::kDataLoss);
}

// Kilobytes of this process's memory that are pages of files.
int64_t ResidentFilePages() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::stoll(line.substr(8));
  }
  return -1;
}

TEST(SafetensorsReader, LentTensorsOutliveItAndGiveTheirPagesBack) {
  constexpr int64_t kCount = 8 << 20;
  const TemporaryRoot inside;
  {
    const std::vector<uint8_t> values(kCount, 7);
    const auto bytes =
        *SerializeSafetensors({{"w", TensorOf<uint8_t>(DType::kU8, {kCount}, values)}}, {});
    inside.Write("m.safetensors",
                 std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  auto reader = *SafetensorsReader::Open(*inside.root()->OpenFile("m.safetensors"));
  EXPECT_EQ(reader->Lend("absent").status().code(), StatusCode::kNotFound);
  const auto same = *reader->Lend("w");
  auto lent = std::make_optional(*reader->Lend("w"));
  reader.reset();
  ReadAhead(lent->view.bytes);
  const int64_t before = ResidentFilePages();
  Populate(lent->view.bytes);
  for (const std::byte value : lent->view.bytes) ASSERT_EQ(value, std::byte{7});
  EXPECT_GT(ResidentFilePages(), before + 4000);  // the kernel counts roughly
  EXPECT_TRUE(lent->CheckIntact().ok());
  lent.reset();
  EXPECT_LT(ResidentFilePages(), before + 1000);
  EXPECT_EQ(same.view.bytes[kCount - 1], std::byte{7});
}

TEST(SafetensorsReader, LendsFromMemory) {
  const auto bytes = *SerializeSafetensors(
      {{"w", TensorOf<float>(DType::kF32, {3}, std::vector<float>(3, 1.5f))}}, {});
  auto reader = *SafetensorsReader::FromBytes({bytes.begin(), bytes.end()});
  const SharedTensor lent = *reader->Lend("w");
  reader.reset();
  EXPECT_EQ(lent.view.shape, Shape{3});
  float last;
  std::memcpy(&last, lent.view.bytes.data() + 8, 4);
  EXPECT_EQ(last, 1.5f);
  EXPECT_TRUE(lent.CheckIntact().ok());
}

std::vector<std::pair<std::string, Tensor>> SampleTensors() {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const int64_t size : {1, 31, 33, 129}) {
    std::vector<float> values(static_cast<size_t>(size), static_cast<float>(size));
    std::vector<uint8_t> codes(static_cast<size_t>(size * 3), static_cast<uint8_t>(size));
    tensors.emplace_back(absl::StrCat("f", size), TensorOf<float>(DType::kF32, {size}, values));
    tensors.emplace_back(absl::StrCat("u\"", size),
                         TensorOf<uint8_t>(DType::kU8, {size, 3}, codes));
  }
  tensors.emplace_back("scalar", MakeTensor(DType::kBF16, {}));
  return tensors;
}

// With room for the header, and with none so that the data must be moved.
TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  for (const uint64_t reserve : {uint64_t{0}, uint64_t{100}, uint64_t{1} << 16}) {
    const TemporaryRoot inside;
    auto output = *AtomicOutput::Create(inside.root(), "out", {});
    auto writer = *SafetensorsWriter::Create(*output->CreateFile("model.safetensors"), reserve);
    for (const auto& [name, tensor] : SampleTensors()) ASSERT_TRUE(writer->Add(name, tensor).ok());
    EXPECT_EQ(writer->Add("f1", MakeTensor(DType::kF32, {1})).code(), StatusCode::kInvalidArgument);
    ASSERT_TRUE(writer->Finish({{"format", "pt"}}).ok());
    ASSERT_TRUE(output->Commit().ok());
    const auto folder = *inside.root()->OpenFolder("out");
    const auto reader = *SafetensorsReader::Open(*folder->OpenFile("model.safetensors"));
    EXPECT_EQ(reader->header().data_offset % 64, 0u);
    EXPECT_EQ(reader->header().metadata.at("format"), "pt");
    for (const auto& [name, tensor] : SampleTensors()) {
      const Tensor read = *reader->Read(name);
      EXPECT_EQ(read.dtype, tensor.dtype);
      EXPECT_EQ(read.shape, tensor.shape);
      EXPECT_EQ(read.bytes, tensor.bytes);
    }
  }
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const TemporaryRoot inside;
  auto output = *AtomicOutput::Create(inside.root(), "out", {});
  auto writer = *SafetensorsWriter::Create(*output->CreateFile("model.safetensors"), 100);
  const TensorView short_view{DType::kF32, {2}, {}};
  EXPECT_EQ(writer->Add("a", short_view).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Add("\xff", MakeTensor(DType::kU8, {1})).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Add("__metadata__", MakeTensor(DType::kU8, {1})).code(),
            StatusCode::kInvalidArgument);
}

TEST(SerializeSafetensors, LaysTensorsOutAsUpstreamDoes) {
  const auto bytes = *SerializeSafetensors({{"b", MakeTensor(DType::kU8, {3})},
                                            {"d", MakeTensor(DType::kF32, {1})},
                                            {"c", MakeTensor(DType::kF32, {1})},
                                            {"a", MakeTensor(DType::kI64, {1})}},
                                           {});
  const auto reader = *SafetensorsReader::FromBytes(bytes);
  std::vector<std::string> names;
  for (const TensorInfo& info : reader->header().tensors) names.push_back(info.name);
  EXPECT_THAT(names, ElementsAre("a", "c", "d", "b"));
}

}  // namespace
}  // namespace quantd
