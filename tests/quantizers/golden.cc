#include "tests/quantizers/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "formats/safetensors/safetensors.h"
#include "tests/test_data.h"

namespace quantd {

std::string GoldenRoot() {
  const char* root = std::getenv("QUANTD_GOLDEN");
  return root != nullptr ? root : TestData("golden");
}

std::vector<std::string> GoldenVariants(const std::string& method, const std::string& prefix) {
  std::vector<std::string> names;
  const std::filesystem::path folder = GoldenRoot() + "/" + method;
  if (!std::filesystem::exists(folder)) return names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, prefix)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string ReadTextFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TensorMap ReadSafetensors(const std::string& path) {
  const std::string text = ReadTextFile(path);
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  auto reader = SafetensorsReader::FromBytes({bytes.begin(), bytes.end()});
  EXPECT_TRUE(reader.ok()) << path << ": " << reader.status();
  TensorMap tensors;
  if (!reader.ok()) return tensors;
  for (const TensorInfo& info : (*reader)->header().tensors) {
    tensors[info.name] = *(*reader)->Read(info.name);
  }
  return tensors;
}

nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadTextFile(path), nullptr, /*allow_exceptions=*/false);
}

TensorMap MemoryModule::ToMap(const std::vector<NamedTensor>& tensors) {
  TensorMap map;
  for (const NamedTensor& named : tensors) map[named.name] = named.tensor;
  EXPECT_EQ(map.size(), tensors.size()) << "a tensor was written twice";
  return map;
}

std::vector<std::string> MemoryModule::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

bool MemoryModule::Has(absl::string_view name) const {
  return tensors_.contains(std::string(name));
}

absl::StatusOr<TensorView> MemoryModule::Describe(absl::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  if (found == tensors_.end()) return absl::NotFoundError(name);
  return TensorView{found->second.dtype, found->second.shape, {}};
}

absl::StatusOr<Tensor> MemoryModule::Read(absl::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  if (found == tensors_.end()) return absl::NotFoundError(name);
  return found->second;
}

std::string Difference(const TensorMap& found, const TensorMap& expected) {
  for (const auto& [name, tensor] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) return name + " is missing";
    const Tensor& ours = it->second;
    if (ours.dtype != tensor.dtype || ours.shape != tensor.shape) {
      return absl::StrCat(name, ": found ", InfoOf(ours.dtype).safetensors_name, " ",
                          ToString(ours.shape), ", expected ",
                          InfoOf(tensor.dtype).safetensors_name, " ", ToString(tensor.shape));
    }
    if (ours.bytes == tensor.bytes) continue;
    int64_t different = 0;
    for (size_t i = 0; i < ours.bytes.size(); ++i) different += ours.bytes[i] != tensor.bytes[i];
    return absl::StrCat(name, ": ", different, " of ", ours.bytes.size(), " bytes differ");
  }
  for (const auto& [name, tensor] : found) {
    if (!expected.contains(name)) return name + " is too much";
  }
  return "";
}

std::string DequantizedDifference(const QuantizedTensor& weight, const Tensor& expected) {
  if (weight.dequantized_dtype != expected.dtype) {
    return absl::StrCat("dequantizes to ", InfoOf(weight.dequantized_dtype).torch_name, ", not ",
                        InfoOf(expected.dtype).torch_name);
  }
  Tensor ours = MakeTensor(expected.dtype, {weight.rows, weight.cols});
  std::vector<float> values = Dequantize(weight);
  for (size_t i = 0; i < values.size(); ++i) {
    // One NaN is as good as another: which bits it has is the processor's choice.
    const float theirs = LoadFloat(expected, static_cast<int64_t>(i));
    if (std::isnan(values[i]) && std::isnan(theirs)) values[i] = theirs;
  }
  StoreFloats(expected.dtype, values.data(), static_cast<int64_t>(values.size()),
              ours.bytes.data());
  return Difference({{"dequantized", ours}}, {{"dequantized", expected}});
}

TensorMap QuantizeAndEncode(const Recipe& recipe, const Tensor& weight, const std::string& module) {
  ModuleInfo info;
  info.name = module;
  info.rows = weight.shape[0];
  info.cols = weight.shape[1];
  info.layer = 0;
  const Scheme* scheme = recipe.SchemeFor(info, ConfigWith("", weight.dtype));
  EXPECT_NE(scheme, nullptr) << module << " is kept";
  if (scheme == nullptr) return {};
  EXPECT_TRUE(scheme->CheckShape(info.rows, info.cols).ok());
  const Tensor input = recipe.InputDType() ? ConvertTensor(weight, *recipe.InputDType()) : weight;
  const auto quantized = scheme->Quantize(input, nullptr);
  EXPECT_TRUE(quantized.ok()) << quantized.status();
  if (!quantized.ok()) return {};
  EXPECT_TRUE(Validate(*quantized).ok()) << Validate(*quantized);
  const auto encoded = recipe.codec()->Encode(*quantized);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  if (!encoded.ok()) return {};
  EXPECT_LE(encoded->size(), static_cast<size_t>(recipe.codec()->max_tensors_per_matrix()));
  return MemoryModule::ToMap(*encoded);
}

ModelConfig ConfigWith(const std::string& quantization_config, DType dtype) {
  ModelConfig config;
  config.dtype = dtype;
  config.quantization_config = quantization_config;
  return config;
}

std::string GoldenVariant::Config() const {
  return ReadJson(folder_ + "/meta.json")["quantization_config"].dump();
}

void GoldenVariant::ExpectQuantizesToUpstreamsBytes() const {
  const auto recipe = *RecipeFromConfig(Config());
  EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, Read("input")["weight"]), Read("quantized")), "");
}

void GoldenVariant::DecodeAndEncode(DType dtype, QuantizedTensor* decoded) const {
  const TensorMap stored = Read("quantized");
  const auto codec = *CodecFor(ConfigWith(Config(), dtype));
  const MemoryModule module(stored);
  ASSERT_TRUE(codec->IsQuantized(module));
  EXPECT_EQ(codec->WeightTensors(module).size(), stored.size());
  auto weight = codec->Decode(module);
  ASSERT_TRUE(weight.ok()) << weight.status();
  ASSERT_TRUE(Validate(*weight).ok()) << Validate(*weight);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*weight)), stored), "");
  *decoded = *std::move(weight);
}

}  // namespace quantd
