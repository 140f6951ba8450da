// Whole checkpoints as upstream saved them. They are too large to live in the repository: the test
// runs when QUANTD_GOLDEN names a collection that has them, and passes over them otherwise.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "quantizers/codecs/quanto_config.h"
#include "quantizers/parameter_names.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

// Tensors of a checkpoint by module.
std::map<std::string, TensorMap> ByModule(const TensorMap& checkpoint) {
  std::map<std::string, TensorMap> modules;
  for (const auto& [name, tensor] : checkpoint) {
    const ParameterName split = SplitParameterName(name);
    modules[split.module][split.local] = tensor;
  }
  return modules;
}

ModuleInfo InfoFor(const std::string& name, const Tensor& weight) {
  ModuleInfo info;
  info.name = name;
  info.rows = weight.shape[0];
  info.cols = weight.shape[1];
  info.is_linear = !absl::EndsWith(name, "embed_tokens");
  info.is_output_embedding = name == "lm_head";
  return info;
}

// Every quantized module decodes and encodes to the same bytes.
void CheckDecoding(const Codec& codec, const std::string& folder) {
  int quantized = 0;
  for (const auto& [name, tensors] : ByModule(ReadSafetensors(folder + "/model.safetensors"))) {
    SCOPED_TRACE(name);
    const MemoryModule module(tensors, name);
    if (!codec.IsQuantized(module)) continue;
    ++quantized;
    const auto decoded = codec.Decode(module);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    TensorMap stored = tensors;
    stored.erase("bias");
    EXPECT_EQ(Difference(MemoryModule::ToMap(*codec.Encode(*decoded)), stored), "");
  }
  EXPECT_GT(quantized, 0);
}

// Every quantized module decodes and encodes to the same bytes, and quantizing the source model
// with the checkpoint's own quantization_config gives them too, and leaves alone what upstream
// does.
void CheckModel(const std::string& folder, const TensorMap& source) {
  ModelConfig config = *ParseHfConfig(ReadTextFile(folder + "/config.json"));
  std::string text = config.quantization_config;
  if (text.empty()) {  // quanto has a file of its own
    text = *QuantoConfigOfMap(ReadTextFile(folder + "/quanto_qmap.json"));
    config.quantization_config = text;
  }
  const auto codec = CodecFor(config);
  ASSERT_TRUE(codec.ok()) << codec.status();
  const auto recipe = RecipeFromConfig(text);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  if ((*recipe)->calibration()) {  // static scales depend on a text
    CheckDecoding(**codec, folder);
    return;
  }
  int quantized = 0;
  for (const auto& [name, tensors] : ByModule(ReadSafetensors(folder + "/model.safetensors"))) {
    SCOPED_TRACE(name);
    const MemoryModule module(tensors, name);
    const Tensor& weight = source.at(name + ".weight");
    if (weight.shape.size() != 2) continue;
    const Scheme* scheme = (*recipe)->SchemeFor(InfoFor(name, weight), config);
    ASSERT_EQ((*codec)->IsQuantized(module), scheme != nullptr);
    if (scheme == nullptr) continue;
    ++quantized;
    const auto decoded = (*codec)->Decode(module);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_TRUE(Validate(*decoded).ok());
    EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), tensors), "");
    EXPECT_EQ(Difference(QuantizeAndEncode(**recipe, weight, name), tensors), "");
  }
  EXPECT_GT(quantized, 0);
  if (text != config.quantization_config) return;
  EXPECT_EQ(nlohmann::json::parse((*recipe)->QuantizationConfig(config)),
            nlohmann::json::parse(text));
}

// Checkpoints of calibrated methods: what they hold depends on more than the source.
TEST(GoldenModels, CalibratedOnesComeBack) {
  int models = 0;
  for (const std::string method : {"awq", "autoround", "gptq", "aqlm", "spqr", "vptq"}) {
    for (const std::string& variant : GoldenVariants(method, "model-")) {
      SCOPED_TRACE(method + "/" + variant);
      const std::string folder = GoldenRoot() + "/" + method + "/" + variant;
      const auto codec = CodecFor(*ParseHfConfig(ReadTextFile(folder + "/config.json")));
      ASSERT_TRUE(codec.ok()) << codec.status();
      ++models;
      CheckDecoding(**codec, folder);
    }
  }
  if (models == 0) GTEST_SKIP() << "QUANTD_GOLDEN names no collection with whole models";
}

TEST(GoldenModels, EveryMatrixIsUpstreams) {
  int models = 0;
  for (const std::string method : {"bitsandbytes", "compressed-tensors", "finegrained_fp8", "eetq",
                                   "higgs", "hqq", "torchao", "quark", "quanto", "bitnet"}) {
    for (const std::string& variant : GoldenVariants(method, "model-")) {
      SCOPED_TRACE(method + "/" + variant);
      ++models;
      CheckModel(GoldenRoot() + "/" + method + "/" + variant,
                 ReadSafetensors(GoldenRoot() + "/tiny-llama/model.safetensors"));
    }
  }
  if (models == 0) GTEST_SKIP() << "QUANTD_GOLDEN names no collection with whole models";
}

}  // namespace
}  // namespace quantd
