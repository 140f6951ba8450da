#include "formats/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "config_text.h"
#include "formats/huggingface/sentence_transformers.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

std::string Bert(const std::map<std::string, std::string>& changes) {
  std::map<std::string, std::string> all = {{"architectures", R"(["BertModel"])"},
                                            {"model_type", R"("bert")"},
                                            {"hidden_act", R"("gelu")"},
                                            {"layer_norm_eps", "1e-12"},
                                            {"pad_token_id", "0"},
                                            {"num_key_value_heads", ""},
                                            {"rms_norm_eps", ""},
                                            {"rope_theta", ""}};
  for (const auto& [key, value] : changes) all[key] = value;
  return Llama(all);
}

TEST(ParseHfConfig, ReadsLlamaInBothSpellings) {
  const std::string scaling =
      R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4.0,)"
      R"("original_max_position_embeddings":8192)";
  const std::string old_spelling = Llama({{"rope_theta", "500000"},
                                          {"rope_scaling", scaling + "}"},
                                          {"torch_dtype", R"("bfloat16")"},
                                          {"eos_token_id", "[2, 7, 2]"},
                                          {"auto_map", R"({"AutoModel":"evil.py--Model"})"}});
  const std::string new_spelling =
      Llama({{"rope_theta", ""},
             {"rope_parameters", scaling + R"(,"rope_theta":500000.0})"},
             {"dtype", R"("bfloat16")"},
             {"eos_token_id", "[2, 7]"}});
  for (const std::string& json : {old_spelling, new_spelling}) {
    const auto config = ParseHfConfig(json);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->architecture, "LlamaForCausalLM");
    EXPECT_EQ(config->dtype, DType::kBF16);
    EXPECT_EQ(config->head_dim, 64);
    EXPECT_EQ(config->num_key_value_heads, 2);
    EXPECT_EQ(config->rope_theta, 500000);
    EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLlama3);
    EXPECT_EQ(config->rope_scaling.factor, 8);
    EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 7));
    EXPECT_EQ(config->config_json, json);
    EXPECT_FALSE(config->attention_bias);
  }
}

TEST(ParseHfConfig, FillsInTransformersDefaults) {
  const auto llama = *ParseHfConfig(Llama({{"num_key_value_heads", ""},
                                           {"rms_norm_eps", ""},
                                           {"rope_theta", ""},
                                           {"bos_token_id", "null"},
                                           {"pad_token_id", "-1"},
                                           {"eos_token_id", ""},
                                           {"rope_scaling", "null"}}));
  EXPECT_EQ(llama.num_key_value_heads, 4);
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_EQ(llama.rope_theta, 10000);
  EXPECT_EQ(llama.dtype, DType::kF32);
  EXPECT_FALSE(llama.bos_token_id || llama.pad_token_id);
  EXPECT_TRUE(llama.eos_token_ids.empty());
  const std::map<std::string, std::string> qwen = {{"architectures", R"(["Qwen2ForCausalLM"])"},
                                                   {"model_type", R"("qwen2")"},
                                                   {"sliding_window", "128"},
                                                   {"use_sliding_window", "false"}};
  EXPECT_TRUE(ParseHfConfig(Llama(qwen))->attention_bias);
  EXPECT_EQ(ParseHfConfig(Llama(qwen))->sliding_window, 0);
  const std::map<std::string, std::string> mistral = {
      {"architectures", R"(["MistralForCausalLM"])"},
      {"model_type", R"("mistral")"},
      {"sliding_window", "128"}};
  EXPECT_EQ(ParseHfConfig(Llama(mistral))->sliding_window, 128);
  EXPECT_EQ(ParseHfConfig(Llama({{"architectures", ""}}))->architecture, "LlamaForCausalLM");
  EXPECT_EQ(ParseHfConfig(Llama({{"model_type", ""}}))->model_type, "llama");
  const auto bert = *ParseHfConfig(Bert({}));
  EXPECT_TRUE(bert.is_encoder());
  EXPECT_EQ(bert.type_vocab_size, 2);
  EXPECT_EQ(bert.num_key_value_heads, 4);
  EXPECT_EQ(bert.norm_eps, 1e-12);
}

TEST(ParseHfConfig, RefusesBrokenJson) {
  const std::string good = Llama({});
  std::string deep = Llama({{"x", std::string(30000, '[') + std::string(30000, ']')}});
  std::string utf16;
  for (const char c : good) utf16 += {c, '\0'};
  const std::string bad[] = {
      "",
      good.substr(0, good.size() - 1),
      "[" + good + "]",
      utf16,
      "\xff\xfe" + utf16,
      "\xef\xbb\xbf" + good,
      good + std::string(4, '\0'),
      good + "x",
      Llama({{"x", "\"\xff\""}}),
      Llama({{"x", "[1,]"}}),
      Llama({{"x", "NaN"}}),
      Llama({{"x", "1e400"}}),
      deep,
      absl::StrReplaceAll(good,
                          {{"\"hidden_size\":256", "\"hidden_size\":256,\"hidden_size\":256"}}),
      "null",
      "42"};
  for (const std::string& json : bad)
    ExpectRefused(json, StatusCode::kInvalidArgument, "config.json");
}

TEST(ParseHfConfig, RefusesEveryBadDimension) {
  const char* bad[] = {
      "0",    "-1", "2.0", "\"256\"", "null", "true", "[256]", "2147483648", "9223372036854775808",
      "1e30", "{}", ""};
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    for (const char* value : bad) {
      ExpectRefused(Llama({{key, value}}), StatusCode::kInvalidArgument, key);
    }
  }
  for (const char* value : {"0", "-1", "2.5", "\"4\"", "5", "3", "1000000000", "[2]"}) {
    ExpectRefused(Llama({{"num_key_value_heads", value}}), StatusCode::kInvalidArgument,
                  "num_key_value_heads");
  }
  for (const char* value : {"0", "-1", "2.5", "63", "1000000000", "[2]"}) {
    ExpectRefused(Llama({{"head_dim", value}}), StatusCode::kInvalidArgument, "head_dim");
  }
  ExpectRefused(Llama({{"num_hidden_layers", "1000000000"}}), StatusCode::kInvalidArgument, "4096");
  ExpectRefused(Llama({{"num_attention_heads", "3"}, {"num_key_value_heads", "3"}}),
                StatusCode::kInvalidArgument, "multiple");
  ExpectRefused(Bert({{"head_dim", "32"}}), StatusCode::kInvalidArgument, "head_dim");
}

TEST(ParseHfConfig, RefusesBadNumbersAndIds) {
  for (const char* key : {"rope_theta", "rms_norm_eps"}) {
    for (const char* value : {"0", "-1", "\"inf\"", "1e400", "[1]", "true"}) {
      ExpectRefused(Llama({{key, value}}), StatusCode::kInvalidArgument, "");
    }
  }
  for (const char* value : {"0", "-1", "1.5", "\"512\"", ""}) {
    ExpectRefused(Llama({{"max_position_embeddings", value}}), StatusCode::kInvalidArgument,
                  "max_position_embeddings");
  }
  EXPECT_EQ(
      ParseHfConfig(Llama({{"max_position_embeddings", "1099511627776"}}))->max_position_embeddings,
      int64_t{1} << 20);
  std::string many = "[0";
  for (int i = 1; i < 2000; ++i) absl::StrAppend(&many, ",", i % 512);
  for (const std::string& value :
       {std::string("512"), std::string("-2"), std::string("1.5"), std::string("\"2\""),
        std::string("[2,512]"), std::string("[2,-1]"), std::string("[[2]]"),
        std::string("[18446744073709551615]"), many + "]"}) {
    ExpectRefused(Llama({{"eos_token_id", value}}), StatusCode::kInvalidArgument, "eos_token_id");
  }
  ExpectRefused(Llama({{"bos_token_id", "512"}}), StatusCode::kInvalidArgument, "bos_token_id");
  ExpectRefused(Llama({{"torch_dtype", "\"int8\""}}), StatusCode::kInvalidArgument, "torch_dtype");
  ExpectRefused(Llama({{"quantization_config", "[]"}}), StatusCode::kInvalidArgument,
                "quantization_config");
}

TEST(ParseHfConfig, NamesWhatIsNotSupported) {
  const StatusCode unimplemented = StatusCode::kUnimplemented;
  ExpectRefused(Llama({{"architectures", R"(["MambaForCausalLM"])"}}), unimplemented,
                "'MambaForCausalLM' is not supported; supported are LlamaForCausalLM");
  ExpectRefused(Bert({{"architectures", R"(["BertForMaskedLM"])"}}), unimplemented, "BertModel");
  ExpectRefused(Llama({{"architectures", ""}, {"model_type", R"("../../etc/passwd")"}}),
                unimplemented, "../../etc/passwd");
  ExpectRefused(Llama({{"model_type", R"("mamba")"}}), StatusCode::kInvalidArgument, "model_type");
  ExpectRefused(Llama({{"architectures", ""}, {"model_type", ""}}), StatusCode::kInvalidArgument,
                "architectures");
  ExpectRefused(Llama({{"architectures", "[1]"}}), StatusCode::kInvalidArgument, "architectures");
  ExpectRefused(Llama({{"hidden_act", R"("snake")"}}), unimplemented, "'snake'");
  ExpectRefused(Bert({{"hidden_act", R"("snake")"}}), unimplemented, "'snake'");
  ExpectRefused(Bert({{"position_embedding_type", R"("relative_key")"}}), unimplemented,
                "relative_key");
  ExpectRefused(Llama({{"rope_scaling", R"({"type":"yarn","factor":4})"}}), unimplemented,
                "'yarn'");
  ExpectRefused(Llama({{"rope_parameters", R"({"rope_type":"dynamic","factor":4})"}}),
                unimplemented, "'dynamic'");
  ExpectRefused(Llama({{"rope_scaling", R"({"type":"linear","factor":0})"}}),
                StatusCode::kInvalidArgument, "factor");
  ExpectRefused(Llama({{"rope_scaling", R"({"type":"linear"})"}}), StatusCode::kInvalidArgument,
                "factor");
  ExpectRefused(Llama({{"rope_scaling", "[]"}}), StatusCode::kInvalidArgument, "rope_scaling");
  ExpectRefused(
      Llama({{"rope_scaling", R"({"rope_type":"llama3","factor":8,"low_freq_factor":4,)"
                              R"("high_freq_factor":4,"original_max_position_embeddings":8192})"}}),
      StatusCode::kInvalidArgument, "high_freq_factor");
}

TEST(MergeGenerationConfig, UnitesEndOfSequenceIds) {
  ModelConfig config = *ParseHfConfig(Llama({{"bos_token_id", ""}}));
  ASSERT_TRUE(
      MergeGenerationConfig(R"({"eos_token_id":[5,2],"bos_token_id":3,"pad_token_id":0})", &config)
          .ok());
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 5));
  EXPECT_EQ(config.bos_token_id, 3);
  EXPECT_EQ(config.pad_token_id, 0);
  EXPECT_EQ(MergeGenerationConfig(R"({"eos_token_id":512})", &config).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(MergeGenerationConfig("[]", &config).code(), StatusCode::kInvalidArgument);
}

TEST(WriteHfConfig, KeepsEveryKeyItDoesNotKnow) {
  const ModelConfig config =
      *ParseHfConfig(Llama({{"custom", R"({"nested":[1,2.5,null,"x"]})"},
                            {"torch_dtype", R"("bfloat16")"},
                            {"quantization_config", R"({"quant_method":"gptq","bits":4})"},
                            {"compression_config", R"({"quant_method":"x"})"}}));
  EXPECT_THAT(config.quantization_config, HasSubstr("gptq"));
  const std::string plain = *WriteHfConfig(config, "");
  EXPECT_THAT(plain, HasSubstr("\"custom\": {"));
  EXPECT_THAT(plain, HasSubstr("\"rms_norm_eps\": 1e-05"));
  EXPECT_THAT(plain, HasSubstr("\"torch_dtype\": \"bfloat16\""));
  EXPECT_THAT(plain, testing::Not(HasSubstr("quant_method")));
  ModelConfig half = config;
  half.dtype = DType::kF16;
  const std::string quantized = *WriteHfConfig(half, R"({"quant_method":"bitsandbytes"})");
  EXPECT_EQ(ParseHfConfig(quantized)->quantization_config, R"({"quant_method":"bitsandbytes"})");
  EXPECT_EQ(ParseHfConfig(quantized)->dtype, DType::kF16);
  EXPECT_EQ(WriteHfConfig(config, "{").status().code(), StatusCode::kInvalidArgument);
}

TEST(WriteHfConfig, MakesAConfigFromFields) {
  for (const std::string& json :
       {Llama({{"rope_scaling", R"({"type":"linear","factor":2.0})"}, {"eos_token_id", "[2,3]"}}),
        Llama({{"architectures", R"(["Qwen2ForCausalLM"])"}, {"model_type", R"("qwen2")"}}),
        Llama({{"architectures", R"(["MistralForCausalLM"])"},
               {"model_type", R"("mistral")"},
               {"sliding_window", "64"}}),
        Bert({})}) {
    ModelConfig config = *ParseHfConfig(json);
    config.config_json.clear();
    const auto written = WriteHfConfig(config, "");
    ASSERT_TRUE(written.ok()) << written.status();
    const auto again = ParseHfConfig(*written);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->architecture, config.architecture);
    EXPECT_EQ(again->num_key_value_heads, config.num_key_value_heads);
    EXPECT_EQ(again->norm_eps, config.norm_eps);
    EXPECT_EQ(again->rope_scaling.kind, config.rope_scaling.kind);
    EXPECT_EQ(again->rope_scaling.factor, config.rope_scaling.factor);
    EXPECT_EQ(again->sliding_window, config.sliding_window);
    EXPECT_EQ(again->eos_token_ids, config.eos_token_ids);
    EXPECT_EQ(again->attention_bias, config.attention_bias);
  }
}

// The divisors that Llama 3.2 1B's GGUF files hold: theta 500000, head 64, factor 32.
TEST(WriteHfConfig, NamesTheRopeTypeOfGgufFrequencies) {
  ModelConfig config = *ParseHfConfig(Llama({{"rope_theta", "500000"}}));
  config.config_json.clear();
  auto& divisors = config.rope_scaling.frequency_divisors;
  divisors.assign(32, 32.0f);
  std::fill_n(divisors.begin(), 15, 1.0f);
  divisors[15] = 1.6513292f;
  divisors[16] = 3.2922621f;
  divisors[17] = 9.6667290f;
  const ModelConfig written = *ParseHfConfig(*WriteHfConfig(config, ""));
  EXPECT_EQ(written.rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(written.rope_scaling.factor, 32);
  EXPECT_EQ(written.rope_scaling.original_max_positions, 8192);
  divisors[17] = 9.5f;
  EXPECT_EQ(WriteHfConfig(config, "").status().code(), StatusCode::kUnimplemented);
}

TEST(SentenceTransformers, ReadsPoolingAndNormalization) {
  const std::string modules =
      R"([{"idx":0,"path":"","type":"sentence_transformers.models.Transformer"},)"
      R"({"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},)"
      R"({"idx":2,"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}])";
  const std::string pooling =
      R"({"word_embedding_dimension":256,"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false})";
  ModelConfig config = *ParseHfConfig(Bert({}));
  EXPECT_TRUE(ApplySentenceTransformers({}, &config).ok());
  EXPECT_EQ(config.pooling, "mean");
  ASSERT_TRUE(ApplySentenceTransformers(
                  {{"modules.json", modules}, {"1_Pooling/config.json", pooling}}, &config)
                  .ok());
  EXPECT_EQ(config.pooling, "cls");
  EXPECT_TRUE(config.normalize_embedding);
  const auto code = [&](const std::string& modules_json, const std::string& pooling_json) {
    ModelConfig scratch = config;
    return ApplySentenceTransformers(
               {{"modules.json", modules_json}, {"1_Pooling/config.json", pooling_json}}, &scratch)
        .code();
  };
  EXPECT_EQ(code("{}", pooling), StatusCode::kInvalidArgument);
  EXPECT_EQ(code("[1]", pooling), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(R"([{"type":"x.Dense","path":"2_Dense"}])", pooling), StatusCode::kUnimplemented);
  EXPECT_EQ(code(R"([{"type":"x.Pooling","path":"../.."}])", pooling),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code(modules, "{}"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(modules, R"({"pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":true})"),
            StatusCode::kUnimplemented);
  EXPECT_EQ(code(modules, R"({"pooling_mode_lasttoken":true})"), StatusCode::kUnimplemented);
  EXPECT_EQ(code(modules, R"({"word_embedding_dimension":99,"pooling_mode_cls_token":true})"),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd
