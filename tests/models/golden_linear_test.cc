// Single layers as upstream stored them, through Linear on every device: exact compute gives
// upstream's float32 outputs, and layers of GPTQ's act-order stay packed in fast compute.
#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "memory_source.h"
#include "models/linear.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

struct Layer {
  std::string method;
  std::string variant;
};

std::string Print(const testing::TestParamInfo<Layer>& info) {
  std::string name = info.param.variant;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return info.param.method + "_" + name;
}

std::vector<Layer> LayersOf(const std::vector<std::string>& methods) {
  std::vector<Layer> layers;
  for (const std::string& method : methods) {
    for (const std::string& variant : GoldenVariants(method, "linear-")) {
      layers.push_back({method, variant});
    }
  }
  return layers;
}

// The variants of GPTQ whose groups are in another order than the inputs.
std::vector<Layer> ActOrderLayers() {
  std::vector<Layer> layers;
  for (const Layer& layer : LayersOf({"gptq"})) {
    if (layer.variant.find("-act-") != std::string::npos) layers.push_back(layer);
  }
  return layers;
}

nlohmann::json ConfigOf(const std::string& method, const nlohmann::json& params) {
  nlohmann::json config = {{"quant_method", method}};
  if (method == "vptq") {
    config["config_for_layers"] = {{kModule, params["config_for_layers_entry"]}};
    return config;
  }
  config.update(params);
  if (method == "aqlm" && !config.contains("in_group_size")) config["in_group_size"] = 8;
  return config;
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
  LoadFloats(tensor.view(), 0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

double RelativeError(const std::vector<float>& found, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(found[i] - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

class GoldenLayer : public testing::TestWithParam<Layer> {
 protected:
  void SetUp() override {
    const std::string method = GetParam().method;
    folder_ = GoldenRoot() + "/" + method + "/" + GetParam().variant;
    TensorMap tensors = ReadSafetensors(folder_ + "/quantized.safetensors");
    if (tensors.contains("bias")) bias_ = Floats(tensors["bias"]);
    tensors.erase("bias");
    const nlohmann::json meta = ReadJson(folder_ + "/meta.json");
    const auto codec = CodecFor(ConfigWith(ConfigOf(method, meta["params"]).dump(), DType::kF16));
    ASSERT_TRUE(codec.ok()) << codec.status();
    auto decoded = (*codec)->Decode(MemoryModule(tensors, kModule));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    weight_ = *std::move(decoded);
  }

  // The layer's outputs of `x` on a device; nullopt where it is not there.
  std::optional<std::vector<float>> Run(const std::string& device, Compute compute,
                                        const std::vector<float>& x, Layout* layout) {
    auto backend = CreateBackend(device);
    if (!backend.ok()) return std::nullopt;
    MemorySource source{ModelConfig()};
    source.Set(absl::StrCat(kModule, ".weight"), weight_);
    if (!bias_.empty()) source.SetFloats(absl::StrCat(kModule, ".bias"), {weight_.rows}, bias_);
    const auto linear = Linear::Load(source, **backend, {{kModule, weight_.rows}}, weight_.cols,
                                     {.compute = compute});
    EXPECT_TRUE(linear.ok()) << linear.status();
    if (!linear.ok()) return std::nullopt;
    *layout = linear->weight().layout();
    const int64_t tokens = static_cast<int64_t>(x.size()) / weight_.cols;
    const auto input = *(*backend)->Allocate(tokens, weight_.cols);
    const auto output = *(*backend)->Allocate(tokens, weight_.rows);
    std::vector<float> y(static_cast<size_t>(tokens * weight_.rows));
    absl::Status status = (*backend)->Upload(x, *input);
    RunCompute(TaskPriority::kInteractive, [&] {
      if (status.ok()) {
        status = linear->Apply(**backend, {.x = input.get(), .tokens = tokens, .y = output.get()});
      }
      if (status.ok()) status = (*backend)->Download(*output, 0, tokens, y);
    });
    EXPECT_TRUE(status.ok()) << status;
    return y;
  }

  std::string folder_;
  QuantizedTensor weight_;
  std::vector<float> bias_;
};

class CodebookLayer : public GoldenLayer {};

// Upstream's outputs with float32 parameters. Sums of halves would be off by 2e-4 and more.
TEST_P(CodebookLayer, ExactComputeIsUpstreams) {
  const std::vector<float> x = Floats(ReadSafetensors(folder_ + "/input.safetensors").at("x"));
  const std::vector<float> y =
      Floats(ReadSafetensors(folder_ + "/expected.safetensors").at("y_fp32"));
  for (const char* device : {"cpu", "opencl"}) {
    Layout layout;
    const auto found = Run(device, Compute::kExact, x, &layout);
    if (!found) continue;
    EXPECT_LT(RelativeError(*found, {y.begin(), y.end()}), 2e-6) << device;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, CodebookLayer, testing::ValuesIn(LayersOf({"aqlm", "vptq"})),
                         Print);

class ActOrderLayer : public GoldenLayer {};

TEST_P(ActOrderLayer, StaysPackedAndMeansTheSame) {
  ASSERT_FALSE(weight_.input.permutation.empty());
  const int64_t rows = weight_.rows, cols = weight_.cols;
  const std::vector<float> dense = Dequantize(weight_);
  for (const int64_t tokens : {1, 3, 17}) {
    std::vector<float> x(static_cast<size_t>(tokens * cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.37f * static_cast<float>(i * i % 997));
    std::vector<double> y(static_cast<size_t>(tokens * rows));
    for (int64_t i = 0; i < tokens * rows; ++i) {
      for (int64_t c = 0; c < cols; ++c) {
        y[i] += double{dense[i % rows * cols + c]} * x[i / rows * cols + c];
      }
    }
    for (const char* device : {"cpu", "opencl"}) {
      SCOPED_TRACE(testing::Message() << device << ", " << tokens << " tokens");
      Layout layout;
      auto found = Run(device, Compute::kExact, x, &layout);
      if (!found) continue;
      EXPECT_LT(RelativeError(*found, y), 1e-6);  // float32
      found = Run(device, Compute::kFast, x, &layout);
      EXPECT_NE(LayoutName(layout), LayoutName(Layout::kDense));
      // Upstream's matrix is rounded to halves (2^-12 on the average of a binade), packed codes
      // times scales are not; inputs have 15 bits.
      EXPECT_LT(RelativeError(*found, y), 5e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, ActOrderLayer, testing::ValuesIn(ActOrderLayers()), Print);

}  // namespace
}  // namespace quantd
