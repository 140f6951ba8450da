#include "tests/quantizers/calibrated.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/float_types.h"

namespace quantd {
namespace {

double TraceOf(const std::vector<double>& matrix, int64_t rows, const std::vector<float>& gram) {
  const auto cols = static_cast<int64_t>(matrix.size()) / rows;
  double trace = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const double* line = matrix.data() + r * cols;
    for (int64_t i = 0; i < cols; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < cols; ++j) sum += gram[i * cols + j] * line[j];
      trace += sum * line[i];
    }
  }
  return trace;
}

ModuleInfo LayerInfo(const Tensor& weight) {
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  info.rows = weight.shape[0];
  info.cols = weight.shape[1];
  info.layer = 0;
  return info;
}

}  // namespace

std::vector<float> GramOf(const Tensor& inputs) {
  const int64_t tokens = inputs.shape[0], cols = inputs.shape[1];
  std::vector<double> sums(cols * cols);
  std::vector<float> x(cols);
  for (int64_t t = 0; t < tokens; ++t) {
    LoadFloats(inputs, t * cols, cols, x.data());
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = 0; j < cols; ++j) sums[i * cols + j] += double{x[i]} * x[j];
    }
  }
  return {sums.begin(), sums.end()};
}

double LayerError(const std::vector<float>& values, const Tensor& weight,
                  const std::vector<float>& gram) {
  std::vector<double> plain(values.size()), error(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    plain[i] = LoadFloat(weight, static_cast<int64_t>(i));
    error[i] = values[i] - plain[i];
  }
  return TraceOf(error, weight.shape[0], gram) / TraceOf(plain, weight.shape[0], gram);
}

QuantizedTensor QuantizeWithGram(const Recipe& recipe, const Tensor& weight,
                                 const std::vector<float>& gram, int64_t tokens) {
  const Scheme* scheme = recipe.SchemeFor(LayerInfo(weight), ConfigWith("", weight.dtype));
  EXPECT_NE(scheme, nullptr);
  if (scheme == nullptr) return {};
  EXPECT_TRUE(scheme->Needs().gram);
  const absl::Status shape = scheme->CheckShape(weight.shape[0], weight.shape[1]);
  EXPECT_TRUE(shape.ok()) << shape;
  InputStats stats;
  stats.gram = gram;
  stats.tokens = tokens;
  const auto quantized = scheme->Quantize(weight, &stats);
  EXPECT_TRUE(quantized.ok()) << quantized.status();
  if (!quantized.ok()) return {};
  EXPECT_TRUE(Validate(*quantized).ok()) << Validate(*quantized);
  return *quantized;
}

absl::Status QuantizeStopped(const Recipe& recipe, const Tensor& weight,
                             const std::vector<float>& gram) {
  SolverControl control;
  control.stopped = [] { return true; };
  InputStats stats;
  stats.gram = gram;
  stats.tokens = 1;
  stats.control = &control;
  return recipe.SchemeFor(LayerInfo(weight), ModelConfig())->Quantize(weight, &stats).status();
}

void CheckSpoiltAreRefused(const Codec& codec, const TensorMap& good,
                           const std::vector<Spoilt>& cases) {
  ASSERT_TRUE(codec.Decode(MemoryModule(good)).ok());
  for (const Spoilt& spoilt : cases) {
    SCOPED_TRACE(spoilt.what);
    TensorMap tensors = good;
    spoilt.spoil(tensors);
    const MemoryModule module(tensors);
    EXPECT_TRUE(codec.IsQuantized(module));
    const absl::Status status = codec.Decode(module).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("model.layers.0.mlp.up_proj."));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(spoilt.message));
  }
}

std::function<void(TensorMap&)> Without(const std::string& name) {
  return [name](TensorMap& tensors) { tensors.erase(name); };
}

std::function<void(TensorMap&)> Zeros(const std::string& name, DType dtype, Shape shape) {
  return [=](TensorMap& tensors) { tensors[name] = MakeTensor(dtype, shape); };
}

}  // namespace quantd
