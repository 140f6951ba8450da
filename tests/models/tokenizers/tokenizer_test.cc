#include "models/tokenizers/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <time.h>

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "formats/huggingface/tokenizer_json.h"
#include "models/tokenizers/known_splits.h"
#include "models/tokenizers/split_pattern.h"
#include "models/tokenizers/unicode.h"
#include "models/tokenizers/work_budget.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string ReadData(const std::string& name) {
  std::ifstream file(TestData("tokenizers/" + name), std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  lines.pop_back();
  return lines;
}

std::vector<int32_t> Ids(absl::string_view text) {
  std::vector<int32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    EXPECT_TRUE(absl::SimpleAtoi(part, &ids.emplace_back()));
  }
  return ids;
}

std::shared_ptr<const Tokenizer> Make(const std::string& json) {
  auto spec = ParseTokenizerJson(json);
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = Tokenizer::Create(*spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// A byte-level BPE without merges behind the given normalizer and pre-tokenizer.
std::string Bytes(const std::string& normalizer, const std::string& pre_tokenizer) {
  auto spec = ParseTokenizerJson(ReadData("byte_bpe.json"));
  EXPECT_TRUE(spec.ok());
  spec->model.merges.clear();
  spec->model.ignore_merges = false;
  spec->added_tokens.clear();
  spec->post_processor.clear();
  std::string json = WriteTokenizerJson(*spec);
  const auto replace = [&](const std::string& key, const std::string& value) {
    const size_t begin = json.find("\"" + key + "\":");
    const size_t end = json.find(",\n\"", begin);
    json.replace(begin, end - begin, "\"" + key + "\":" + value);
  };
  replace("normalizer", normalizer);
  replace("pre_tokenizer", pre_tokenizer);
  return json;
}

class GoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, EqualsUpstream) {
  const auto spec = ParseTokenizerJson(ReadData(GetParam() + ".json"));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto rewritten = ParseTokenizerJson(WriteTokenizerJson(*spec));
  ASSERT_TRUE(rewritten.ok()) << rewritten.status();
  const auto texts = Lines(ReadData("corpus.hex"));
  const auto golden = Lines(ReadData(GetParam() + ".ids"));
  ASSERT_EQ(texts.size(), golden.size());
  for (const TokenizerSpec& one : {*spec, *rewritten}) {
    const auto tokenizer = Tokenizer::Create(one);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string text = absl::HexStringToBytes(texts[i]);
      const std::vector<std::string> fields = absl::StrSplit(golden[i], '\t');
      const auto ids = (*tokenizer)->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, Ids(fields[0])) << text;
      const auto plain = (*tokenizer)->Encode(text, {false, false});
      EXPECT_EQ(*plain, Ids(fields[1])) << text;
      const auto decoded = (*tokenizer)->Decode(*ids);
      ASSERT_TRUE(decoded.ok());
      EXPECT_EQ(ReplaceInvalidUtf8(*decoded), absl::HexStringToBytes(fields[2])) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GoldenTest,
                         ::testing::Values("byte_bpe", "minilm", "sentencepiece"));

TEST(TokenizerTest, StreamsWholeCharacters) {
  const auto tokenizer = Make(ReadData("byte_bpe.json"));
  const std::string text = "na\u00efve \U0001f468\u200d\U0001f469 \u4e2d\u6587!";
  const auto ids = tokenizer->Encode(text, {false, true});
  ASSERT_TRUE(ids.ok());
  StreamingDecoder stream(*tokenizer);
  std::string joined;
  for (const int32_t id : *ids) {
    const std::string piece = stream.Push(id);
    EXPECT_EQ(ValidUtf8Prefix(piece), piece.size());
    joined += piece;
  }
  joined += stream.Flush();
  EXPECT_EQ(joined, text);
}

TEST(TokenizerTest, StreamGivesBytesOfBrokenCharacters) {
  const auto tokenizer = Make(ReadData("byte_bpe.json"));
  const auto ids = tokenizer->Encode("\u4e2d", {false, true});
  StreamingDecoder stream(*tokenizer);
  const int32_t lead = *tokenizer->TokenToId("\u00e4");  // the byte E4
  EXPECT_EQ(stream.Push(lead), "");
  EXPECT_EQ(stream.Push(*tokenizer->TokenToId("a")),
            "\xE4"
            "a");
  EXPECT_EQ(stream.Push(lead), "");
  EXPECT_EQ(stream.Flush(), "\xE4");
}

TEST(TokenizerTest, SpecialTokensAreTextWhenNotParsed) {
  const auto tokenizer = Make(ReadData("byte_bpe.json"));
  const int32_t end = *tokenizer->TokenToId("<|im_end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(end));
  EXPECT_THAT(*tokenizer->Encode("<|im_end|>", {false, true}), ElementsAre(end));
  EXPECT_THAT(*tokenizer->Encode("<|im_end|>", {false, false}), Not(Contains(end)));
  EXPECT_EQ(*tokenizer->Decode({end}, false), "<|im_end|>");
  EXPECT_EQ(*tokenizer->Decode({end}, true), "");
}

TEST(TokenizerTest, RefusesBadArguments) {
  const auto tokenizer = Make(ReadData("byte_bpe.json"));
  const auto invalid = tokenizer->Encode("ab\xFF");
  EXPECT_EQ(invalid.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(invalid.status().message()), HasSubstr("byte 2"));
  EXPECT_EQ(tokenizer->Encode("a\xED\xA0\x80").status().code(), absl::StatusCode::kInvalidArgument);
  for (const int32_t id : {-1, tokenizer->vocabulary_size(), 1 << 30}) {
    EXPECT_EQ(tokenizer->Decode({id}).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(tokenizer->Encode(std::string(Tokenizer::kMaxTextBytes + 1, 'a')).status().code(),
            absl::StatusCode::kResourceExhausted);
  const auto spec = ParseTokenizerJson(ReadData("byte_bpe.json"));
  EXPECT_TRUE(Tokenizer::Create(*spec, tokenizer->vocabulary_size()).ok());
  EXPECT_EQ(Tokenizer::Create(*spec, tokenizer->vocabulary_size() - 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, SameFromManyThreads) {
  const auto tokenizer = Make(ReadData("minilm.json"));
  const std::string text = "Sixteen rows go side by side; one load feeds them all.";
  const auto expected = *tokenizer->Encode(text);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) EXPECT_EQ(*tokenizer->Encode(text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerTest, LongTextsStayLinear) {
  const auto tokenizer = Make(ReadData("byte_bpe.json"));
  for (const char* unit : {"a", " ", "\n", "'", "\u4e2d", "ab1 ", "<|im_start|", "\u0301"}) {
    std::string text;
    while (text.size() < (1 << 16)) text += unit;
    const auto ids = tokenizer->Encode(text, {false, true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*tokenizer->Decode(*ids, false), text);
  }
}

std::string SplitJson(const std::string& regex) {
  return absl::StrCat(R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")",
                      regex, R"("},"behavior":"Isolated","invert":false},)",
                      R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
}

TEST(PatternTest, RunawayPatternsAreBounded) {
  std::string text(1 << 16, 'a');
  text += "!";
  for (const char* regex :
       {"(a+)+$", "(a|aa)+b", "(?:.*+x|.)*y", "[^x]+x", "(a?){60}a{60}b", "(?=(a+))\\\\1c"}) {
    const auto spec = ParseTokenizerJson(Bytes("null", SplitJson(regex)));
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto tokenizer = Tokenizer::Create(*spec);
    if (!tokenizer.ok()) {
      EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << regex;
      continue;
    }
    timespec begin, end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    const auto ids = (*tokenizer)->Encode(text);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    const double seconds = static_cast<double>(end.tv_sec - begin.tv_sec) +
                           1e-9 * static_cast<double>(end.tv_nsec - begin.tv_nsec);
    if (!ids.ok()) {
      EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << regex;
    }
    RecordProperty(absl::StrCat("seconds_", regex), absl::StrCat(seconds));
    EXPECT_LT(seconds, 30) << regex;  // the budget is 1 s; sanitizers and slow machines get room
  }
}

TEST(PatternTest, BadPatternsAreRefused) {
  for (const char* regex :
       {"(((", "", "((a{1000}){1000}){1000}", "[a", "a{2,1}", "(*UTF)a", "\\\\"}) {
    const auto spec = ParseTokenizerJson(Bytes("null", SplitJson(regex)));
    const absl::Status status = spec.ok() ? Tokenizer::Create(*spec).status() : spec.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << regex << " " << status;
  }
}

TEST(PatternTest, KnownSplitsEqualTheirRegularExpressions) {
  const auto texts = Lines(ReadData("corpus.hex"));
  for (
      const char* regex :
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}) {
    ASSERT_NE(FindKnownSplit(regex), nullptr);
    const auto known = SplitPattern::Compile({true, regex});
    const auto plain = SplitPattern::Compile({true, regex}, /*use_known=*/false);
    ASSERT_TRUE(known.ok() && plain.ok());
    for (const std::string& line : texts) {
      const std::string text = absl::HexStringToBytes(line);
      WorkBudget budget(text.size());
      std::vector<size_t> a, b;
      ASSERT_TRUE(
          known->ForEachMatch(text, &budget, [&](size_t, size_t end) { a.push_back(end); }).ok());
      ASSERT_TRUE(
          plain->ForEachMatch(text, &budget, [&](size_t, size_t end) { b.push_back(end); }).ok());
      EXPECT_EQ(a, b) << text;
    }
  }
}

// Each takes a fraction of the time that one text may take, all together a multiple.
TEST(NormalizerTest, AddedTokensShareOneBudget) {
  auto spec = *ParseTokenizerJson(
      Bytes(R"({"type":"Replace","pattern":{"Regex":"(a+)+$"},"content":""})", SplitJson("x")));
  const int32_t first = static_cast<int32_t>(spec.model.vocabulary.size());
  for (int i = 0; i < 200; ++i) {
    AddedTokenSpec token;
    token.id = first + i;
    token.content = absl::StrCat(i, std::string(18, 'a'), "b");
    token.normalized = true;
    spec.added_tokens.push_back(token);
  }
  EXPECT_EQ(Tokenizer::Create(spec).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(NormalizerTest, GrowthIsBounded) {
  std::string steps;
  for (int i = 0; i < 40; ++i) {
    absl::StrAppend(&steps, i == 0 ? "" : ",",
                    R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})");
  }
  const auto tokenizer =
      Make(Bytes(absl::StrCat(R"({"type":"Sequence","normalizers":[)", steps, "]}"),
                 R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})"));
  EXPECT_EQ(tokenizer->Encode("a").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(tokenizer->Encode("b").ok());
}

}  // namespace
}  // namespace quantd
