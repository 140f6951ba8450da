#include "tests/quantizers/gguf/golden.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "formats/safetensors/safetensors.h"
#include "tests/test_data.h"

namespace quantd {

std::vector<std::byte> ReadGoldenFile(const std::string& name) {
  std::ifstream file(TestData("golden/" + name), std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  const std::vector<char> text{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::byte> bytes(text.size());
  if (!bytes.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::map<std::string, Tensor> ReadGoldenTensors(const std::string& name) {
  std::map<std::string, Tensor> tensors;
  const auto reader = SafetensorsReader::FromBytes(ReadGoldenFile(name));
  EXPECT_TRUE(reader.ok()) << name << ": " << reader.status();
  if (!reader.ok()) return tensors;
  for (const TensorInfo& info : (*reader)->header().tensors) {
    tensors[info.name] = *(*reader)->Read(info.name);
  }
  return tensors;
}

std::vector<float> FloatsOf(const Tensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::vector<GoldenType> AllGoldenTypes() {
  using T = GgmlType;
  return {{"q4_0", T::kQ4_0},     {"q4_1", T::kQ4_1},     {"q5_0", T::kQ5_0},
          {"q5_1", T::kQ5_1},     {"q8_0", T::kQ8_0},     {"q2_k", T::kQ2_K},
          {"q3_k", T::kQ3_K},     {"q4_k", T::kQ4_K},     {"q5_k", T::kQ5_K},
          {"q6_k", T::kQ6_K},     {"iq4_nl", T::kIQ4_NL}, {"iq4_xs", T::kIQ4_XS},
          {"mxfp4", T::kMXFP4},   {"nvfp4", T::kNVFP4},   {"q1_0", T::kQ1_0},
          {"q2_0", T::kQ2_0},     {"tq1_0", T::kTQ1_0},   {"tq2_0", T::kTQ2_0},
          {"iq1_s", T::kIQ1_S},   {"iq1_m", T::kIQ1_M},   {"iq2_xxs", T::kIQ2_XXS},
          {"iq2_xs", T::kIQ2_XS}, {"iq2_s", T::kIQ2_S},   {"iq3_xxs", T::kIQ3_XXS},
          {"iq3_s", T::kIQ3_S}};
}

}  // namespace quantd
