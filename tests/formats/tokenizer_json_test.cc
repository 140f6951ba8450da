#include "formats/huggingface/tokenizer_json.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/huggingface/gguf_vocabulary.h"

namespace quantd {
namespace {

using Code = absl::StatusCode;

constexpr char kGood[] =
    R"({"added_tokens":[{"id":3,"content":"<s>","special":true}],"normalizer":null,)"
    R"("pre_tokenizer":null,"post_processor":null,"decoder":null,"padding":null,)"
    R"("model":{"type":"BPE","unk_token":"a","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";

Code Parse(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(kGood, {{from, to}});
  EXPECT_NE(text, kGood) << from;
  return ParseTokenizerJson(text).status().code();
}

std::string Repeat(const std::string& unit, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += unit;
  return out;
}

TEST(TokenizerJsonTest, ReadsAndWrites) {
  const auto spec = ParseTokenizerJson(kGood);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto again = ParseTokenizerJson(WriteTokenizerJson(*spec));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->model.merges, spec->model.merges);
  EXPECT_EQ(again->added_tokens[0].content, "<s>");
}

TEST(TokenizerJsonTest, BadIds) {
  for (const char* id : {"-1", "2147483647", "4294967296", "3.5", "\"3\"", "1", "null", "1000000",
                         "1e400", "true", "18446744073709551615"}) {
    EXPECT_EQ(Parse("\"ab\":2", absl::StrCat("\"ab\":", id)), Code::kInvalidArgument) << id;
    EXPECT_EQ(Parse("\"id\":3", absl::StrCat("\"id\":", id)), Code::kInvalidArgument) << id;
  }
  EXPECT_EQ(Parse("\"unk_token\":\"a\"", "\"unk_token\":\"zz\""), Code::kInvalidArgument);
}

TEST(TokenizerJsonTest, BadJson) {
  const std::string good = kGood;
  for (const std::string& text :
       {std::string(), good.substr(0, 100), "[" + good + "]", good + std::string(1, '\0'),
        good + "x", "\xEF\xBB\xBF" + good, std::string("\xFF\xFE{\0", 4),
        std::string("{\"a\":NaN}"), std::string("{\"a\":1,}"), std::string("{\"a\":\"\\ud800\"}"),
        std::string("{}"), std::string("{\"model\":{\"type\":\"BPE\"}}"), Repeat("[", 30000),
        "{\"a\":" + Repeat("[", 30000), std::string("{\"x\":1,\"x\":2}")}) {
    EXPECT_EQ(ParseTokenizerJson(text).status().code(), Code::kInvalidArgument)
        << text.substr(0, 40);
  }
  EXPECT_EQ(Parse("\"b\":1", "\"a\":1"), Code::kInvalidArgument);
  EXPECT_EQ(Parse("{\"a\":0,\"b\":1,\"ab\":2}", "[\"a\",\"b\"]"), Code::kInvalidArgument);
  EXPECT_EQ(Parse("\"BPE\"", "\"Magic\""), Code::kUnimplemented);
  EXPECT_EQ(Parse("\"normalizer\":null", "\"normalizer\":{\"type\":\"Magic\"}"),
            Code::kUnimplemented);
}

TEST(TokenizerJsonTest, BadMerges) {
  for (const char* merge : {"\"a\"", "\"a z\"", "\"a b b\"", "3", "[\"a\"]", "[\"a\",\"b\",\"b\"]",
                            "[\"a\",3]", "null", "\"b a\"", "{}"}) {
    EXPECT_EQ(Parse("\"a b\"", merge), Code::kInvalidArgument) << merge;
  }
}

TEST(TokenizerJsonTest, BadAddedTokens) {
  EXPECT_EQ(Parse("\"<s>\"", "\"\""), Code::kInvalidArgument);
  EXPECT_EQ(Parse("\"<s>\"", "\"b\""), Code::kInvalidArgument);
  EXPECT_EQ(Parse("\"<s>\"", "\"" + Repeat("x", 5000) + "\""), Code::kInvalidArgument);
}

TEST(TokenizerJsonTest, BombsAreBounded) {
  std::string nested = R"({"type":"NFC"})";
  for (int i = 0; i < 300; ++i) {
    nested = absl::StrCat(R"({"type":"Sequence","normalizers":[)", nested, "]}");
  }
  EXPECT_EQ(Parse("\"normalizer\":null", "\"normalizer\":" + nested), Code::kInvalidArgument);
  EXPECT_EQ(Parse("\"normalizer\":null",
                  R"("normalizer":{"type":"Prepend","prepend":")" + Repeat("x", 50000) + "\"}"),
            Code::kResourceExhausted);
  EXPECT_EQ(Parse("\"padding\":null", R"("padding":{"strategy":{"Fixed":1099511627776}})"),
            Code::kResourceExhausted);
}

TEST(TokenizerJsonTest, BadTemplates) {
  const auto with = [](const std::string& single, const std::string& ids) {
    return Parse("\"post_processor\":null",
                 absl::StrCat(R"("post_processor":{"type":"TemplateProcessing","single":)", single,
                              R"(,"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":)", ids,
                              R"(,"tokens":["<s>"]}}})"));
  };
  const std::string good =
      R"([{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}])";
  EXPECT_EQ(with(good, "[3]"), Code::kOk);
  for (const char* ids : {"[99]", "[-1]", "[3.5]", "3", "[\"3\"]"}) {
    EXPECT_EQ(with(good, ids), Code::kInvalidArgument) << ids;
  }
  EXPECT_EQ(with("[]", "[3]"), Code::kInvalidArgument);
  EXPECT_EQ(with(R"([{"Sequence":{"id":"B","type_id":0}}])", "[3]"), Code::kInvalidArgument);
}

GgufVocabulary SmallVocabulary() {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "smollm";
  vocabulary.tokens = {"a", "b", "ab", "<s>"};
  vocabulary.token_types = {1, 1, 1, 3};
  vocabulary.merges = {"a b"};
  vocabulary.bos_id = 3;
  return vocabulary;
}

TEST(GgufVocabularyTest, RoundTrip) {
  const auto spec = TokenizerSpecFromGguf(SmallVocabulary());
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto back = GgufVocabularyFromSpec(*spec, 6);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->pre, "smollm");
  EXPECT_EQ(back->tokens, (std::vector<std::string>{"a", "b", "ab", "<s>", "[PAD4]", "[PAD5]"}));
  EXPECT_EQ(back->token_types, (std::vector<int32_t>{1, 1, 1, 3, 5, 5}));
  EXPECT_EQ(GgufVocabularyFromSpec(*spec, 3).status().code(), Code::kInvalidArgument);
}

TEST(GgufVocabularyTest, BadVocabularies) {
  const auto check = [](auto change, Code code) {
    GgufVocabulary vocabulary = SmallVocabulary();
    change(vocabulary);
    EXPECT_EQ(TokenizerSpecFromGguf(vocabulary).status().code(), code);
  };
  const Code invalid = Code::kInvalidArgument;
  check([](auto& v) { v.token_types.pop_back(); }, invalid);
  check([](auto& v) { v.token_types[0] = 77; }, invalid);
  check([](auto& v) { v.scores = {1}; }, invalid);
  check([](auto& v) { v.bos_id = 4; }, invalid);
  check([](auto& v) { v.eos_id = -1; }, invalid);
  check([](auto& v) { v.tokens[0] = std::string(20000, 'x'); }, invalid);
  check([](auto& v) { v.tokens[0] = "\xFF"; }, invalid);
  check([](auto& v) { v.tokens[1] = "a"; }, invalid);
  check([](auto& v) { v.merges[0] = "ab"; }, invalid);
  check([](auto& v) { v.merges[0] = "a z"; }, invalid);
  check([](auto& v) { v.tokens.clear(); }, invalid);
  check([](auto& v) { v.add_eos = true; }, invalid);
  check([](auto& v) { v.model = "llama"; }, invalid);  // no scores
  check([](auto& v) { v.model = "rwkv"; }, Code::kUnimplemented);
  check([](auto& v) { v.pre = "never-heard-of"; }, Code::kUnimplemented);
}

}  // namespace
}  // namespace quantd
