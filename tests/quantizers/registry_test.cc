// The table of methods, options and skip lists.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/substitute.h"
#include "quantizers/method.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

TEST(Registry, EveryRowIsWhole) {
  ASSERT_FALSE(AllMethods().empty());
  for (const Method& method : AllMethods()) {
    SCOPED_TRACE(method.name);
    EXPECT_FALSE(method.summary.empty());
    EXPECT_FALSE(method.bits.empty());
    EXPECT_FALSE(method.upstream.empty());
    std::set<std::string> names;
    for (const OptionSpec& option : method.options) {
      EXPECT_TRUE(names.insert(option.name).second) << option.name << " stands twice";
      EXPECT_FALSE(option.description.empty()) << option.name;
    }
    for (const std::string& shorthand : {method.bits_option, method.group_size_option}) {
      EXPECT_TRUE(shorthand.empty() || names.contains(shorthand)) << shorthand;
    }
    ASSERT_NE(method.make, nullptr);
    const auto recipe = MakeRecipe(method.name, {});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ((*recipe)->method(), method.name);
    EXPECT_NE((*recipe)->codec() == nullptr, (*recipe)->gguf_policy() == nullptr);
  }
}

// Loaders replace every linear that is not listed, the pooler's too, and GPTQ's look for blocks
// where decoders have them.
TEST(Registry, ConfigsOfEncodersNameWhatLoadersCannotGuess) {
  ModelConfig encoder = ConfigWith("", DType::kF32), decoder = encoder;
  encoder.model_type = "bert";
  decoder.model_type = "llama";
  const std::map<std::string, std::string> told = {{"aqlm", R"("pooler.dense.weight")"},
                                                   {"awq", R"("pooler.dense")"},
                                                   {"gptq", R"("block_name_to_quantize")"},
                                                   {"spqr", R"("pooler.dense")"},
                                                   {"vptq", R"("pooler.dense")"}};
  for (const auto& [method, text] : told) {
    const auto recipe = MakeRecipe(method, {});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_THAT((*recipe)->QuantizationConfig(encoder), HasSubstr(text)) << method;
    EXPECT_THAT((*recipe)->QuantizationConfig(decoder), Not(HasSubstr(text))) << method;
  }
}

// What users have at hand is not always the bare quantization_config.
TEST(Registry, DocumentsOfUpstreamsAreTakenAsTheyAre) {
  const std::map<std::string, std::string> methods = {
      {R"({"quant_method": "higgs"})", "higgs"},
      {R"({"load_in_4bit": true})", "bitsandbytes"},
      {R"({"model_type": "llama", "quantization_config": {"quant_method": "eetq"}})", "eetq"},
      {R"({"lm_head": {"weights": "qint4", "activations": "none"}})", "quanto"},
      {R"({"bits": 4, "group_size": 64, "desc_act": false})", "gptq"},
      {R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})", "awq"},
  };
  for (const auto& [document, method] : methods) {
    const auto recipe = RecipeFromConfig(document);
    ASSERT_TRUE(recipe.ok()) << document << ": " << recipe.status();
    EXPECT_EQ((*recipe)->method(), method) << document;
  }
  for (const std::string document :
       {"{}", "null", R"({"model_type": "llama"})", R"({"quantization_config": null})",
        R"({"quantization_config": {}})", R"({"weights": "int4"})"}) {
    const absl::Status status = RecipeFromConfig(document).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << document;
    EXPECT_THAT(std::string(status.message()), HasSubstr("quantization_config")) << document;
  }
}

TEST(Registry, EveryDefaultIsAllowed) {
  for (const Method& method : AllMethods()) {
    for (const OptionSpec& option : method.options) {
      if (option.default_value.empty()) continue;
      const auto parsed = Options::Parse(method.options, {{option.name, option.default_value}});
      EXPECT_TRUE(parsed.ok()) << method.name << ": " << parsed.status();
    }
  }
}

TEST(Registry, WritesAConfigThatSelectsTheSameMethodAndCodec) {
  for (const Method& method : AllMethods()) {
    SCOPED_TRACE(method.name);
    const auto recipe = *MakeRecipe(method.name, {});
    if (recipe->codec() == nullptr) continue;
    const std::string config = recipe->QuantizationConfig(ConfigWith("", DType::kBF16));
    const auto again = RecipeFromConfig(config);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->method(), method.name);
    EXPECT_EQ((*again)->QuantizationConfig(ConfigWith("", DType::kBF16)), config);
    const auto codec = CodecFor(ConfigWith(config, DType::kBF16));
    ASSERT_TRUE(codec.ok()) << codec.status();
    EXPECT_EQ((*codec)->quant_method(), recipe->codec()->quant_method());
  }
}

TEST(Registry, NamesAndSpellings) {
  EXPECT_EQ((*FindMethod("finegrained_fp8"))->name, "fp8");
  const auto unknown = FindMethod("gtpq\n");
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.status().message(), HasSubstr("gtpq\\n"));
  EXPECT_THAT(unknown.status().message(), HasSubstr("bitsandbytes, compressed-tensors, fp8"));
  EXPECT_EQ(CodecFor(ConfigWith("{\"quant_method\": \"gtpq\"}", DType::kBF16)).status().code(),
            StatusCode::kUnimplemented);
}

TEST(Options, SuggestsTheNearestName) {
  const auto status = MakeRecipe("bitsandbytes", {{"bnb_4bit_quant_tpye", "nf4"}}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("did you mean bnb_4bit_quant_type?"));
  EXPECT_THAT(MakeRecipe("compressed-tensors", {{"bits", "4"}}).status().message(),
              HasSubstr("did you mean num_bits?"));
  EXPECT_THAT(MakeRecipe("fp8", {{"zzzzzzzz", "4"}}).status().message(),
              Not(HasSubstr("did you mean")));
}

struct BadOptions {
  std::string method;
  std::map<std::string, std::string> options;
  std::string message;
};

TEST(Options, RefusesWrongValues) {
  const BadOptions cases[] = {
      {"bitsandbytes", {{"bits", "5"}}, "one of 4, 8"},
      {"bitsandbytes", {{"bits", "-4"}}, "one of 4, 8"},
      {"bitsandbytes", {{"bits", "4.5"}}, "an integer"},
      {"bitsandbytes", {{"bits", "99999999999999999999"}}, "an integer"},
      {"bitsandbytes", {{"bits", "8"}, {"load_in_4bit", "true"}}, "contradicts"},
      {"bitsandbytes", {{"load_in_8bit", "true"}, {"load_in_4bit", "true"}}, "both true"},
      {"bitsandbytes", {{"llm_int8_threshold", "nan"}}, "a finite number"},
      {"bitsandbytes", {{"llm_int8_threshold", "-1"}}, "at least 0"},
      {"bitsandbytes", {{"llm_int8_skip_modules", "((("}}, "invalid"},
      {"bitsandbytes", {{"llm_int8_skip_modules", "((a{1000}){1000}){1000}"}}, "invalid"},
      {"bitsandbytes", {{"bnb_4bit_blocksize", "48"}}, "one of 32, 64"},
      {"compressed-tensors", {{"scheme", "W5A16"}}, "one of UNQUANTIZED"},
      {"compressed-tensors", {{"scheme", "W8A8"}, {"num_bits", "4"}}, "contradicts scheme W8A8"},
      {"compressed-tensors", {{"num_bits", "0"}}, "one of 1, 2"},
      {"compressed-tensors", {{"group_size", "0"}}, "found 0"},
      {"compressed-tensors", {{"group_size", "-2"}}, "group_size"},
      {"compressed-tensors", {{"group_size", "9223372036854775807"}}, "group_size"},
      {"compressed-tensors", {{"strategy", "block"}}, "block_structure"},
      {"compressed-tensors", {{"type", "float"}, {"num_bits", "5"}}, "4, 6 or 8"},
      {"compressed-tensors", {{"targets", "re:(?!x)y"}}, "no lookaround"},
      {"hqq", {{"nbits", "7"}}, "one of 1, 1.58"},
      {"hqq", {{"group_size", "12"}}, "multiple of 8"},
      {"hqq", {{"group_size", "0"}}, "multiple of 8"},
      {"hqq", {{"group_size", "-8"}}, "multiple of 8"},
      {"hqq", {{"group_size", "64.5"}}, "multiple of 8"},
      {"hqq", {{"axis", "2"}}, "one of 0, 1"},
      {"fp8", {{"weight_block_size", "0,128"}}, "rows,columns"},
      {"quark", {{"bits", "5"}}, "one of 2, 3"},
      {"quark", {{"bits", "4"}, {"dtype", "fp8_e4m3"}}, "contradicts"},
      {"quark", {{"dtype", "int4"}, {"group_size", "0"}}, "group_size"},
      {"quark", {{"dtype", "int4"}, {"group_size", "-1"}}, "group_size"},
      {"quark", {{"dtype", "fp8_e4m3"}, {"group_size", "32"}}, "contradicts"},
      {"quark", {{"scale_calculation_mode", "ceil"}}, "contradicts"},
      {"quark", {{"dtype", "fp4"}, {"qscheme", "per_tensor"}}, "per_group"},
      {"quark", {{"exclude", ""}, {"dtype", "int9"}}, "one of int2"},
      {"torchao", {{"bits", "9"}}, "one of 1, 2"},
      {"torchao", {{"quant_type", "int4_weight_only"}}, "one of Int8WeightOnlyConfig"},
      {"torchao", {{"bits", "4"}, {"quant_type", "Int8WeightOnlyConfig"}}, "contradicts"},
      {"torchao", {{"mapping_type", "ASYMMETRIC"}}, "has no such field"},
      {"torchao", {{"group_size", "32"}, {"granularity", "PerRow"}}, "contradicts"},
      {"torchao", {{"group_size", "0"}}, "group_size"},
      {"torchao", {{"group_size", "-1"}, {"bits", "4"}}, "group_size"},
      {"torchao", {{"group_size", "7"}, {"bits", "4"}}, "even"},
      {"torchao", {{"bits", "1"}, {"mapping_type", "SYMMETRIC_NO_CLIPPING_ERR"}}, "int1"},
      {"torchao", {{"granularity", "PerAxis"}}, "PerTensor or PerRow"},
      {"fp8", {{"weight_block_size", "128"}}, "rows,columns"},
  };
  for (const BadOptions& bad : cases) {
    const auto recipe = MakeRecipe(bad.method, bad.options);
    EXPECT_EQ(recipe.status().code(), StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(recipe.status().message(), HasSubstr(bad.message));
  }
}

TEST(Configs, RefuseWrongNumbersBeforeUsingThem) {
  const char* kWeights =
      R"({"quant_method": "compressed-tensors", "config_groups": {"group_0":
          {"targets": ["Linear"], "weights": {$0, "strategy": "group"}}}})";
  for (const char* weights :
       {R"("num_bits": 0, "group_size": 32)", R"("num_bits": -4, "group_size": 32)",
        R"("num_bits": 1000, "group_size": 32)", R"("num_bits": "4", "group_size": 32)",
        R"("num_bits": 4.5, "group_size": 32)", R"("num_bits": 4, "group_size": 0)",
        R"("num_bits": 4, "group_size": -2)", R"("num_bits": 4, "group_size": 2147483648)",
        R"("num_bits": 4, "group_size": 9223372036854775808)", R"("num_bits": 4)",
        R"("num_bits": 4, "group_size": 32, "colour": 1)"}) {
    const std::string json = absl::Substitute(kWeights, weights);
    EXPECT_EQ(RecipeFromConfig(json).status().code(), StatusCode::kInvalidArgument) << weights;
    EXPECT_EQ(CodecFor(ConfigWith(json, DType::kBF16)).status().code(),
              StatusCode::kInvalidArgument);
  }
  for (const char* json :
       {"",
        "[]",
        "{",
        "{}",
        R"({"quant_method": 4})",
        R"({"quant_method": "fp8", "a": {}, "a": 1})",
        R"({"quant_method": "fp8", "weight_block_size": [0, 128]})",
        R"({"quant_method": "fp8", "weight_block_size": [128]})",
        R"({"quant_method": "fp8", "scale_fmt": "int"})",
        R"({"quant_method": "bitsandbytes"})",
        R"({"load_in_4bit": true, "bnb_4bit_quant_type": "nf5"})",
        R"({"load_in_4bit": 1})",
        R"({"quant_method": "compressed-tensors"})",
        R"({"quant_method": "compressed-tensors", "config_groups": {"W9A16": ["Linear"]}})",
        R"({"quant_method": "quark", "export": {"pack_method": "sideways"}})",
        R"({"quant_method": "quark", "export": {}, "exclude": "lm_head"})",
        R"({"quant_method": "quark", "export": {}, "layer_quant_config": []})",
        R"({"quant_method": "torchao"})",
        R"({"quant_method": "torchao", "quant_type": "int8_weight_only"})",
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig",
            "_version": 1, "_data": {}}}})",
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig",
            "_version": 2, "_data": {"colour": 1}}}})",
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig",
            "_version": 2, "_data": {"group_size": 32}}}})",
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig",
            "_version": 2, "_data": {"group_size": 9223372036854775808}}}})",
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "FqnToConfig",
            "_data": {"fqn_to_config": {"re:(((": null}}}}})",
        R"({"quant_method": "nothing"})"}) {
    EXPECT_EQ(RecipeFromConfig(json).status().code(), StatusCode::kInvalidArgument) << json;
  }
}

TEST(Configs, PresetNamesAndUnknownTopLevelKeysAreUpstreams) {
  const auto recipe = RecipeFromConfig(
      R"({"quant_method": "compressed-tensors", "new_key": [1], "ignore": ["lm_head"],
          "config_groups": {"W4A16": ["re:.*mlp.*"], "FP8_DYNAMIC": ["Linear"]}})");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto described = [&](const std::string& module) {
    ModuleInfo info;
    info.name = module;
    const Scheme* scheme = (*recipe)->SchemeFor(info, ModelConfig());
    return scheme == nullptr ? "kept" : scheme->Describe();
  };
  EXPECT_EQ(described("model.layers.0.mlp.up_proj"), "int4 group 128, pack-quantized");
  EXPECT_EQ(described("model.layers.0.self_attn.q_proj"), "float8 channel, float-quantized");
  EXPECT_EQ(described("lm_head"), "kept");
  EXPECT_THAT((*recipe)->QuantizationConfig(ModelConfig()), HasSubstr("\"mixed-precision\""));
}

TEST(Configs, TorchAoFindsModulesByNameThenPatternThenDefault) {
  const auto recipe = RecipeFromConfig(
      R"({"quant_method": "torchao", "modules_to_not_convert": ["model.layers.1"], "quant_type":
          {"default": {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": {
            "_default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}},
            "re:.*down_proj": {"_type": "Int4WeightOnlyConfig", "_version": 2, "_data": {}},
            "model.layers.0.mlp.down_proj": null,
            "model.embed_tokens": {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": {}}
          }}}}})");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto described = [&](const std::string& module, bool is_linear = true) {
    ModuleInfo info;
    info.name = module;
    info.is_linear = is_linear;
    info.rows = info.cols = 128;
    const Scheme* scheme = (*recipe)->SchemeFor(info, ModelConfig());
    return scheme == nullptr ? "kept" : scheme->Describe();
  };
  EXPECT_EQ(described("model.layers.0.mlp.up_proj"), "int8 rows, Int8WeightOnlyConfig");
  EXPECT_EQ(described("model.layers.0.mlp.down_proj"), "kept");
  EXPECT_EQ(described("model.layers.2.mlp.down_proj"), "int4 group 128, Int4WeightOnlyConfig");
  EXPECT_EQ(described("model.layers.1.mlp.down_proj"), "kept");
  EXPECT_EQ(described("model.embed_tokens", false), "int8 rows, IntxWeightOnlyConfig");
  EXPECT_EQ(described("model.other_embeddings", false), "kept");
}

TEST(SkipLists, MatchAsTransformersDoes) {
  EXPECT_TRUE(MatchesSkipPattern("lm_head", "lm_head"));
  EXPECT_TRUE(MatchesSkipPattern("a.b.fc1", "fc1"));
  EXPECT_TRUE(MatchesSkipPattern("model.layers.1.mlp", "model.layers.1"));
  EXPECT_FALSE(MatchesSkipPattern("layer.11", "layer.1"));
  EXPECT_TRUE(MatchesSkipPattern("model.layers.7.mlp.up_proj", "model.layers.[5-9]"));
  EXPECT_FALSE(MatchesSkipPattern("x.model.layers.7", "layers.7.mlp"));
  EXPECT_FALSE(MatchesSkipPattern("anything", ""));
  EXPECT_FALSE(MatchesSkipPattern("anything", "((("));
  const std::string hostile(20000, 'a');
  EXPECT_FALSE(MatchesSkipPattern(hostile + "!", "(a+)+$"));
}

TEST(SkipLists, AGivenListReplacesTheAutomaticOne) {
  ModuleInfo head;
  head.name = "lm_head";
  head.is_output_embedding = true;
  head.rows = head.cols = 128;
  for (const char* method : {"bitsandbytes", "fp8", "fbgemm_fp8"}) {
    const std::string key =
        std::string(method) == "bitsandbytes" ? "llm_int8_skip_modules" : "modules_to_not_convert";
    EXPECT_EQ((*MakeRecipe(method, {}))->SchemeFor(head, ModelConfig()), nullptr);
    const auto given = *MakeRecipe(method, {{key, "down_proj"}});
    EXPECT_NE(given->SchemeFor(head, ModelConfig()), nullptr) << method;
    head.is_linear = false;
    EXPECT_EQ(given->SchemeFor(head, ModelConfig()), nullptr) << "an embedding table";
    head.is_linear = true;
  }
}

}  // namespace
}  // namespace quantd
