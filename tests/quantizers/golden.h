// Data that the original libraries wrote: tests/data/golden/<method>/<variant>/. The environment
// variable QUANTD_GOLDEN names a larger collection of the same layout to run the same tests on.
#ifndef QUANTD_TESTS_QUANTIZERS_GOLDEN_H_
#define QUANTD_TESTS_QUANTIZERS_GOLDEN_H_

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quantizers/codecs/codec.h"
#include "quantizers/method.h"

namespace quantd {

using TensorMap = std::map<std::string, Tensor>;

std::string GoldenRoot();
// Names of the variants of a method that begin with `prefix`, sorted.
std::vector<std::string> GoldenVariants(const std::string& method, const std::string& prefix);

std::string ReadTextFile(const std::string& path);
TensorMap ReadSafetensors(const std::string& path);
nlohmann::json ReadJson(const std::string& path);

// Tensors of one module, held in memory.
class MemoryModule : public ModuleTensors {
 public:
  explicit MemoryModule(TensorMap tensors, std::string module = "model.layers.0.mlp.up_proj")
      : tensors_(std::move(tensors)), module_(std::move(module)) {}
  static TensorMap ToMap(const std::vector<NamedTensor>& tensors);

  const std::string& module() const override { return module_; }
  std::vector<std::string> names() const override;
  bool Has(absl::string_view name) const override;
  absl::StatusOr<TensorView> Describe(absl::string_view name) const override;
  absl::StatusOr<Tensor> Read(absl::string_view name) const override;

  TensorMap& tensors() { return tensors_; }

 private:
  TensorMap tensors_;
  std::string module_;
};

// "" when both hold the same tensors byte for byte, else what differs first.
std::string Difference(const TensorMap& found, const TensorMap& expected);
// "" when the dequantized matrix equals `expected` bit for bit.
std::string DequantizedDifference(const QuantizedTensor& weight, const Tensor& expected);

// Quantizes `weight` as module `module` of a recipe and encodes it; the test fails on an error.
TensorMap QuantizeAndEncode(const Recipe& recipe, const Tensor& weight,
                            const std::string& module = "model.layers.0.mlp.up_proj");

ModelConfig ConfigWith(const std::string& quantization_config, DType dtype);

// A matrix that upstream quantized by a quantization_config, golden/METHOD/VARIANT; the parameter
// is the variant.
class GoldenVariant : public testing::TestWithParam<std::string> {
 protected:
  explicit GoldenVariant(const std::string& method)
      : folder_(GoldenRoot() + "/" + method + "/" + GetParam()) {}

  TensorMap Read(const std::string& file) const {
    return ReadSafetensors(folder_ + "/" + file + ".safetensors");
  }
  std::string Config() const;
  // The input gives the stored tensors.
  void ExpectQuantizesToUpstreamsBytes() const;
  // The stored tensors are all of one matrix, `decoded`, which is sound and gives them again.
  void DecodeAndEncode(DType dtype, QuantizedTensor* decoded) const;

 private:
  const std::string folder_;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_GOLDEN_H_
