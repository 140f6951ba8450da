#include "tests/kernels/testing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/cpu/kernel_table.h"

namespace quantd::testing {
namespace {

constexpr float kNf4[16] = {-1.0f,    -0.6962f, -0.5251f, -0.3949f, -0.2844f, -0.1848f,
                            -0.0911f, 0.0f,     0.0796f,  0.1609f,  0.2461f,  0.3379f,
                            0.4407f,  0.5626f,  0.7230f,  1.0f};

struct Options {
  Grid grid;
  BlockShape block;
  bool zero = false;       // an integral zero point per block
  bool real_zero = false;  // a fractional one
  bool offset = false;
  DType scale_dtype = DType::kF16;
};

QuantizedTensor RandomTensor(int64_t rows, int64_t cols, uint32_t seed, const Options& options) {
  std::mt19937 random(seed);
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  t.grid = options.grid;
  t.block = options.block;
  t.scale_dtype = options.scale_dtype;
  const int codes = options.grid.is_e4m3 ? 0x7f : 1 << options.grid.bits;  // 0x7f is NaN
  t.codes.resize(static_cast<size_t>(rows * cols));
  for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random() % codes);
  if (options.grid.is_e4m3) {
    for (uint8_t& code : t.codes) code |= (random() & 1) << 7;
  }
  const size_t blocks = static_cast<size_t>(t.block_count());
  std::uniform_real_distribution<float> uniform(0.25f, 1.0f);
  for (size_t b = 0; b < blocks; ++b) {
    t.scale.push_back(RoundTo(options.scale_dtype, 0.01f * uniform(random)));
    if (options.zero) t.zero_point.push_back(static_cast<float>(random() % codes));
    if (options.real_zero) t.zero_point.push_back(codes * uniform(random));
    if (options.offset) t.offset.push_back(-0.02f * uniform(random));
  }
  return t;
}

WeightKind Quantized(std::string name, Layout layout, Options options) {
  return {std::move(name), layout, [options](int64_t rows, int64_t cols, uint32_t seed) -> Weight {
            return RandomTensor(rows, cols, seed, options);
          }};
}

WeightKind Dense(std::string name, DType dtype) {
  return {std::move(name), Layout::kDense,
          [dtype](int64_t rows, int64_t cols, uint32_t seed) -> Weight {
            const std::vector<float> values = RandomFloats(rows * cols, seed, 0.05f);
            return ConvertTensor(TensorOf<float>(DType::kF32, {rows, cols}, values), dtype);
          }};
}

Weight WithOutliers(int64_t rows, int64_t cols, uint32_t seed) {
  QuantizedTensor t = RandomTensor(rows, cols, seed, {UniformGrid(4, false), {1, 32}, true});
  t.outliers.row_begin.resize(static_cast<size_t>(rows) + 1);
  std::iota(t.outliers.row_begin.begin(), t.outliers.row_begin.end(), 0);
  for (int64_t r = 0; r < rows; ++r) {
    t.outliers.column.push_back(static_cast<int32_t>(r % cols));
    t.outliers.value.push_back(0.5f);
  }
  return t;
}

Weight WithPermutation(int64_t rows, int64_t cols, uint32_t seed) {
  QuantizedTensor t = RandomTensor(rows, cols, seed, {UniformGrid(4, false), {1, 32}, true});
  for (int64_t c = 0; c < cols; ++c) {
    t.input.permutation.push_back(static_cast<int32_t>(cols - 1 - c));
  }
  return t;
}

}  // namespace

ScopedEnvironment::ScopedEnvironment(const char* name, const std::string& value) : name_(name) {
  const char* before = std::getenv(name);
  had_ = before != nullptr;
  if (had_) before_ = before;
  setenv(name, value.c_str(), 1);
}

ScopedEnvironment::~ScopedEnvironment() {
  had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_);
}

std::vector<std::string> SupportedIsas() {
  std::vector<std::string> names;
  for (const cpu::KernelTable* table : cpu::SupportedKernelTables()) names.push_back(table->name);
  return names;
}

std::unique_ptr<Backend> BackendOn(const std::string& isa) {
  const ScopedEnvironment forced("QUANTD_ISA", isa);
  auto backend = CreateBackend("cpu");
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

std::vector<WeightKind> WeightKinds() {
  const Grid nf4 = TableGrid(4, std::vector<float>(kNf4, kNf4 + 16));
  return {
      Dense("f32", DType::kF32),
      Dense("bf16", DType::kBF16),
      Dense("f16", DType::kF16),
      Quantized("int8_row", Layout::kInt8Row, {UniformGrid(8, true), {1, 0}}),
      Quantized("int8_tensor", Layout::kInt8Row, {UniformGrid(8, true), {0, 0}}),
      Quantized("int8_group32", Layout::kIntGroup, {UniformGrid(8, true), {1, 32}}),
      Quantized("int4_group32", Layout::kIntGroup, {UniformGrid(4, true), {1, 32}}),
      Quantized("int4_group128_zero", Layout::kIntGroup, {UniformGrid(4, false), {1, 128}, true}),
      Quantized("int4_group64_real_zero", Layout::kIntGroup,
                {UniformGrid(4, false), {1, 64}, false, true}),
      Quantized("int4_row", Layout::kIntGroup, {UniformGrid(4, true), {1, 0}}),
      Quantized("int4_group32_offset", Layout::kIntGroup,
                {UniformGrid(4, false), {1, 32}, false, false, true, DType::kF32}),
      Quantized("int6_group16", Layout::kIntGroup, {UniformGrid(6, true), {1, 16}}),
      Quantized("int8_group64_zero", Layout::kIntGroup, {UniformGrid(8, false), {1, 64}, true}),
      Quantized("int5_group32_offset", Layout::kIntGroup,
                {UniformGrid(5, false), {1, 32}, false, false, true, DType::kF32}),
      Quantized("int2_group16_offset", Layout::kIntGroup,
                {UniformGrid(2, false), {1, 16}, false, false, true, DType::kF32}),
      Quantized("int3_group128_zero", Layout::kIntGroup, {UniformGrid(3, false), {1, 128}, true}),
      Quantized("int4_group24", Layout::kIntGroup, {UniformGrid(4, true), {1, 24}}),
      Quantized("nf4_64", Layout::kLut4, {nf4, {1, 64}, false, false, false, DType::kF32}),
      Quantized("nf4_row", Layout::kLut4, {nf4, {1, 0}, false, false, false, DType::kF32}),
      Quantized("fp8_row", Layout::kFp8, {E4M3Grid(), {1, 0}, false, false, false, DType::kF32}),
      Quantized("fp8_block128", Layout::kFp8,
                {E4M3Grid(), {128, 128}, false, false, false, DType::kF32}),
      {"outliers", Layout::kDense, WithOutliers},
      {"permutation", Layout::kIntGroup, WithPermutation},
  };
}

std::vector<float> DenseOf(const Weight& weight) {
  if (const auto* tensor = std::get_if<Tensor>(&weight)) {
    std::vector<float> values(static_cast<size_t>(tensor->view().elements()));
    LoadFloats(tensor->view(), 0, static_cast<int64_t>(values.size()), values.data());
    return values;
  }
  QuantizedTensor tensor = std::get<QuantizedTensor>(weight);
  tensor.input.permutation.clear();
  return Dequantize(tensor);
}

std::vector<double> MatMul(const std::vector<float>& x, const std::vector<float>& w, int64_t tokens,
                           int64_t rows, int64_t cols) {
  std::vector<double> y(static_cast<size_t>(tokens * rows));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < cols; ++c) sum += double{x[t * cols + c]} * w[r * cols + c];
      y[t * rows + r] = sum;
    }
  }
  return y;
}

double RelativeError(const std::vector<float>& found, const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

std::unique_ptr<DeviceArray> ArrayOf(Backend& backend, int64_t rows, int64_t cols,
                                     const std::vector<float>& values) {
  auto array = backend.Allocate(rows, cols);
  EXPECT_TRUE(array.ok()) << array.status();
  EXPECT_TRUE(backend.Upload(values, **array).ok());
  return *std::move(array);
}

std::vector<float> Read(Backend& backend, const DeviceArray& array) {
  std::vector<float> values(static_cast<size_t>(array.rows() * array.cols()));
  const absl::Status status = backend.Download(array, 0, array.rows(), std::span<float>(values));
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

std::unique_ptr<PackedWeight> PackOne(Backend& backend, const Weight& weight, Compute compute) {
  const Weight* parts[] = {&weight};
  auto packed = backend.Pack(parts, {.compute = compute});
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

std::vector<float> RunLinear(Backend& backend, const PackedWeight& weight,
                             const std::vector<float>& x, int64_t tokens, LinearArgs args) {
  const auto input = ArrayOf(backend, tokens, weight.cols(), x);
  const int64_t width = weight.rows() / (args.activation == Activation::kSiluMul ? 2 : 1);
  const auto output = ArrayOf(backend, tokens, width, {});
  args.weight = &weight;
  args.x = input.get();
  args.tokens = tokens;
  args.y = output.get();
  absl::Status status;
  RunCompute(TaskPriority::kInteractive, [&] { status = backend.Linear(args); });
  EXPECT_TRUE(status.ok()) << status;
  return Read(backend, *output);
}

}  // namespace quantd::testing
