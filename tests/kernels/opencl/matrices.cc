#include "tests/kernels/opencl/matrices.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "core/float_types.h"
#include "tests/kernels/opencl/fixture.h"

namespace quantd {
namespace {

Tensor Floats(DType dtype, int64_t rows, int64_t cols, unsigned seed) {
  Tensor tensor = MakeTensor(dtype, {rows, cols});
  std::vector<float> values = RandomFloats(rows * cols, seed);
  if (values.size() > 2) {
    values[1] = 3e-6f;  // subnormal in float16
    values[2] = -0.0f;
  }
  StoreFloats(dtype, values.data(), rows * cols, tensor.bytes.data());
  return tensor;
}

template <DType kDType>
Weight Dense(int64_t rows, int64_t cols, unsigned seed) {
  return Floats(kDType, rows, cols, seed);
}

// Codes in blocks with scales that float16 holds.
QuantizedTensor Coded(Grid grid, BlockShape block, int64_t rows, int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  t.grid = std::move(grid);
  t.block = block;
  t.codes.resize(rows * cols);
  for (uint8_t& code : t.codes) code = generator() % (1u << t.grid.bits);
  t.scale.resize(t.block_count());
  for (float& scale : t.scale) {
    scale = RoundTo(DType::kF16, 0.01f + static_cast<float>(generator() % 1000) * 1e-5f);
  }
  return t;
}

void AddZeros(QuantizedTensor& t, unsigned seed, bool integral) {
  std::mt19937 generator(seed);
  t.zero_point.resize(t.scale.size());
  for (float& zero : t.zero_point) {
    zero = static_cast<float>(t.grid.first + static_cast<int>(generator() % (1u << t.grid.bits)));
    if (!integral) zero += 0.37f;
  }
}

template <int kBits, int kGroup, bool kSigned>
Weight Symmetric(int64_t rows, int64_t cols, unsigned seed) {
  return Coded(UniformGrid(kBits, kSigned), {1, kGroup}, rows, cols, seed);
}

template <int kBits, int kGroup>
Weight Asymmetric(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(kBits, false), {1, kGroup}, rows, cols, seed);
  AddZeros(t, seed + 1, /*integral=*/true);
  return t;
}

Weight FractionalZeros(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(4, false), {1, 64}, rows, cols, seed);
  AddZeros(t, seed + 1, /*integral=*/false);
  return t;
}

Weight Offsets(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(4, false), {1, 32}, rows, cols, seed);
  t.offset = RandomFloats(static_cast<int64_t>(t.scale.size()), seed + 1);
  for (float& scale : t.scale) scale *= 1.0001f;  // float32 scales
  return t;
}

Weight PostScaled(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(8, true), {1, 0}, rows, cols, seed);
  for (float& scale : t.scale) scale = RoundTo(DType::kBF16, scale * 1e9f);  // bfloat16 scales
  t.post_scale = 1.0f / 127e9f;
  return t;
}

// Float16 scales below 2^-14 lose bits; with a zero among them they are stored as float32.
template <bool kZero>
Weight TinyScales(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(8, true), {1, 32}, rows, cols, seed);
  for (float& scale : t.scale) scale = RoundTo(DType::kF16, scale * -1e-3f);
  if (kZero) t.scale[0] = 0;
  return t;
}

Weight RowTiles(int64_t rows, int64_t cols, unsigned seed) {
  return Coded(UniformGrid(8, true), {16, 24}, rows, cols, seed);
}

Weight FlatInRows(int64_t rows, int64_t cols, unsigned seed) {
  return Coded(UniformGrid(4, true), {1, cols % 3 == 0 ? cols / 3 : cols, true}, rows, cols, seed);
}

Weight FlatOverRows(int64_t rows, int64_t cols, unsigned seed) {
  return Coded(UniformGrid(4, true), {1, 2 * cols, true}, rows, cols, seed);
}

Weight FlatAcrossRows(int64_t rows, int64_t cols, unsigned seed) {
  return Coded(UniformGrid(4, true), {1, 37, true}, rows, cols, seed);
}

Weight Permuted(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(4, true), {1, 32}, rows, cols, seed);
  t.input.permutation.resize(cols);
  std::iota(t.input.permutation.begin(), t.input.permutation.end(), 0);
  std::shuffle(t.input.permutation.begin(), t.input.permutation.end(), std::mt19937(seed));
  return t;
}

Weight WithOutliers(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(4, true), {1, 32}, rows, cols, seed);
  for (int64_t row = 0; row <= rows; ++row) t.outliers.row_begin.push_back(row);
  for (int64_t row = 0; row < rows; ++row) {
    t.outliers.column.push_back(static_cast<int32_t>(row * 7 % cols));
    t.outliers.value.push_back(3.25f);
  }
  return t;
}

Weight Lut4(int64_t rows, int64_t cols, unsigned seed) {
  std::vector<float> table = RandomFloats(16, 99);
  std::sort(table.begin(), table.end());
  return Coded(TableGrid(4, std::move(table)), {1, 64}, rows, cols, seed);
}

Weight Fp8(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(E4M3Grid(), {1, 0}, rows, cols, seed);
  for (uint8_t& code : t.codes) {
    if ((code & 0x7f) == 0x7f) code = 0;  // NaN
  }
  return t;
}

Weight Codebook(int64_t rows, int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  t.grid.kind = Grid::Kind::kCodebook;
  t.grid.bits = 9;
  t.grid.codebooks = 2;
  t.grid.table = RandomFloats(2 << 9, 7);
  t.wide_codes.resize(rows * cols * 2);
  for (uint16_t& code : t.wide_codes) code = generator() % (1u << 9);
  t.scale.assign(rows, 0.5f);
  return t;
}

Weight Bf16Valued(int64_t rows, int64_t cols, unsigned seed) {
  QuantizedTensor t = Coded(UniformGrid(4, true), {1, 32}, rows, cols, seed);
  t.dequantized_dtype = DType::kBF16;
  return t;
}

}  // namespace

const std::vector<MatrixCase>& MatrixCases() {
  constexpr float kF16 = 5e-4f;  // 2^-11
  static const auto* const cases = new std::vector<MatrixCase>{
      {"F32", Dense<DType::kF32>, Compute::kFast, Layout::kDense},
      {"BF16", Dense<DType::kBF16>, Compute::kExact, Layout::kDense},
      {"F16", Dense<DType::kF16>, Compute::kFast, Layout::kDense},
      {"E4M3Dense", Dense<DType::kF8E4M3>, Compute::kFast, Layout::kDense},
      {"Int8Row", Symmetric<8, 0, true>, Compute::kFast, Layout::kInt8Row},
      {"Int8RowPostScaled", PostScaled, Compute::kFast, Layout::kInt8Row},
      {"Int8Group", Symmetric<8, 32, true>},
      {"Int5Group", Asymmetric<5, 64>},
      {"Int4Group", Symmetric<4, 32, true>},
      {"Int4Asymmetric", Asymmetric<4, 128>},
      {"Int4OddGroup", Asymmetric<4, 37>},
      {"Int4FractionalZeros", FractionalZeros},
      {"Int4Offsets", Offsets},
      {"Int3Group", Symmetric<3, 64, false>},
      {"Int2Group", Asymmetric<2, 64>},
      {"SubnormalScales", TinyScales<false>},
      {"ZeroScales", TinyScales<true>},
      {"RowTiles", RowTiles},
      {"FlatInRows", FlatInRows},
      {"FlatOverRows", FlatOverRows},
      {"FlatAcrossRows", FlatAcrossRows, Compute::kFast, Layout::kDense, kF16},
      {"FlatAcrossRowsExact", FlatAcrossRows, Compute::kExact, Layout::kDense},
      {"Permuted", Permuted},
      {"PermutedExact", Permuted, Compute::kExact, Layout::kDense},
      {"Outliers", WithOutliers, Compute::kFast, Layout::kDense, kF16},
      {"OutliersExact", WithOutliers, Compute::kExact, Layout::kDense},
      {"Lut4", Lut4, Compute::kFast, Layout::kLut4},
      {"Fp8", Fp8, Compute::kFast, Layout::kFp8},
      {"Codebook", Codebook, Compute::kFast, Layout::kDense, kF16},
      {"Bf16ValuedExact", Bf16Valued, Compute::kExact, Layout::kDense},
  };
  return *cases;
}

const MatrixCase& MatrixCaseNamed(const std::string& name) {
  const auto& cases = MatrixCases();
  return *std::find_if(cases.begin(), cases.end(),
                       [&](const MatrixCase& matrix) { return matrix.name == name; });
}

std::vector<float> DenseOf(const Weight& weight) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) {
    QuantizedTensor ordered = *quantized;
    ordered.input.permutation.clear();
    return Dequantize(ordered);
  }
  const TensorView view = std::get<Tensor>(weight).view();
  std::vector<float> values(view.elements());
  LoadFloats(view, 0, view.elements(), values.data());
  return values;
}

}  // namespace quantd
