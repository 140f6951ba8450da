// What exact compute leaves in float32 although upstream's dequantization may round it.
#include <gtest/gtest.h>

#include <vector>

#include "core/float_types.h"
#include "core/parallel.h"
#include "memory_source.h"
#include "models/linear.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

constexpr int64_t kRows = 8, kCols = 32;

QuantizedTensor Fp8Matrix() {
  QuantizedTensor t;
  t.rows = kRows;
  t.cols = kCols;
  t.grid = E4M3Grid();
  t.block = {.rows = 0, .cols = 0};
  t.scale = {0.3f};  // products that bfloat16 has not
  t.dequantized_dtype = DType::kBF16;
  for (int64_t i = 0; i < kRows * kCols; ++i) t.codes.push_back(static_cast<uint8_t>(i % 0x70));
  return t;
}

// The weights by which exact compute multiplies.
std::vector<float> Multiplied(const QuantizedTensor& matrix, Backend& backend) {
  MemorySource source{ModelConfig()};
  source.Set("up_proj.weight", matrix);
  const PackOptions options{.compute = Compute::kExact};
  const auto linear = *Linear::Load(source, backend, {{"up_proj", kRows}}, kCols, options);
  std::vector<float> identity(kCols * kCols), columns(kCols * kRows), weights(kRows * kCols);
  for (int64_t i = 0; i < kCols; ++i) identity[i * kCols + i] = 1;
  const auto x = *backend.Allocate(kCols, kCols), y = *backend.Allocate(kCols, kRows);
  EXPECT_TRUE(backend.Upload(identity, *x).ok());
  LinearArgs args;
  args.tokens = kCols;
  args.x = x.get();
  args.y = y.get();
  absl::Status status;
  RunCompute(TaskPriority::kInteractive, [&] {
    status = linear.Apply(backend, args);
    if (status.ok()) status = backend.Download(*y, 0, kCols, columns);
  });
  EXPECT_TRUE(status.ok()) << status;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) weights[r * kCols + c] = columns[c * kRows + r];
  }
  return weights;
}

class ExactLinear : public testing::TestWithParam<std::string> {};

TEST_P(ExactLinear, RoundsWhatUpstreamAlwaysRounds) {
  const auto backend = CreateBackend(GetParam());
  if (!backend.ok()) GTEST_SKIP() << backend.status();
  QuantizedTensor matrix = Fp8Matrix();
  const std::vector<float> rounded = Dequantize(matrix);
  matrix.dequantized_dtype = DType::kF32;
  const std::vector<float> products = Dequantize(matrix);
  ASSERT_NE(rounded, products);
  matrix.dequantized_dtype = DType::kBF16;
  EXPECT_EQ(Multiplied(matrix, **backend), rounded);
  matrix.follows_loaded_dtype = true;  // as fine-grained FP8
  EXPECT_EQ(Multiplied(matrix, **backend), products);
}

INSTANTIATE_TEST_SUITE_P(Devices, ExactLinear, testing::Values("cpu", "opencl"));

}  // namespace
}  // namespace quantd
