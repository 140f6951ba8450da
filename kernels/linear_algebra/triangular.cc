#include "kernels/linear_algebra/triangular.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

constexpr int64_t kBlock = 128;  // rows and columns of a diagonal block; part of the result
constexpr int64_t kTile = 256;   // columns that one task fills

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The lower triangle of a diagonal block, [size, size] with rows `stride` apart, by its definition.
// Returns the first bad pivot, or size.
int64_t FactorBlock(float* a, int64_t size, int64_t stride) {
  for (int64_t j = 0; j < size; ++j) {
    const float pivot = a[j * stride + j];
    if (!(pivot > 0) || !std::isfinite(pivot)) return j;
    const float root = std::sqrt(pivot);
    a[j * stride + j] = root;
    float column[kBlock];
    for (int64_t i = j + 1; i < size; ++i) column[i] = a[i * stride + j] /= root;
    for (int64_t i = j + 1; i < size; ++i) {
      float* row = a + i * stride;
      for (int64_t k = j + 1; k <= i; ++k) row[k] -= column[i] * column[k];
    }
  }
  return size;
}

// The inverse of a block's lower triangle, [size, size] without gaps, zeros above the diagonal.
std::vector<float> InverseOfBlock(const float* l, int64_t size, int64_t stride) {
  std::vector<float> inverse(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i) {
    float* row = inverse.data() + i * size;
    row[i] = 1;
    for (int64_t k = 0; k < i; ++k) {
      const float factor = l[i * stride + k];
      const float* above = inverse.data() + k * size;
      for (int64_t j = 0; j <= k; ++j) row[j] -= factor * above[j];
    }
    for (int64_t j = 0; j <= i; ++j) row[j] /= l[i * stride + i];
  }
  return inverse;
}

// A copy [rows, cols] without gaps, every element times `sign`.
void CopyBlock(const float* from, int64_t rows, int64_t cols, int64_t stride, float sign,
               std::vector<float>& to) {
  to.resize(static_cast<size_t>(rows * cols));
  ParallelFor(Ceil(rows, kBlock), [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kBlock);
    for (int64_t r = task * kBlock; r < end; ++r) {
      for (int64_t c = 0; c < cols; ++c) to[r * cols + c] = sign * from[r * stride + c];
    }
  });
}

// C [rows, cols] = A B.
void Multiply(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
              const MatrixOperand& b, float* c, int64_t stride) {
  ParallelFor(Ceil(rows, kBlock), [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kBlock);
    for (int64_t r = task * kBlock; r < end; ++r) std::fill_n(c + r * stride, cols, 0.0f);
  });
  AddMatrixProduct(rows, cols, inner, a, b, c, stride);
}

// The tiles of [rows, rows] that touch the lower triangle: A += X Y^T there, X and Y [rows, inner].
void AddLowerProduct(int64_t rows, int64_t inner, const float* x, int64_t x_stride, const float* y,
                     int64_t y_stride, float* a, int64_t stride) {
  const int64_t down = Ceil(rows, kBlock), across = Ceil(rows, kTile);
  ParallelFor(down * across, [&](int64_t task) {
    const int64_t i = task / across * kBlock, j = task % across * kTile;
    const int64_t height = std::min(kBlock, rows - i);
    if (j >= i + height) return;
    AddMatrixProduct(height, std::min(kTile, i + height - j), inner,
                     {x + i * x_stride, x_stride, 1}, {y + j * y_stride, 1, y_stride},
                     a + i * stride + j, stride);
  });
}

// All elements in reverse order: rows and columns both turned around.
void Reverse(float* a, int64_t count) {
  constexpr int64_t kSlice = 1 << 16;
  ParallelFor(Ceil(count / 2, kSlice), [&](int64_t slice) {
    const int64_t end = std::min(count / 2, (slice + 1) * kSlice);
    for (int64_t i = slice * kSlice; i < end; ++i) std::swap(a[i], a[count - 1 - i]);
  });
}

}  // namespace

int64_t CholeskyLower(float* a, int64_t n, const std::function<bool()>& stopped) {
  std::vector<float> panel, negated;
  for (int64_t j = 0; j < n; j += kBlock) {
    if (stopped && stopped()) return kStopped;
    const int64_t size = std::min(kBlock, n - j), below = n - j - size;
    float* diagonal = a + j * n + j;
    if (const int64_t good = FactorBlock(diagonal, size, n); good < size) return j + good;
    if (below == 0) break;
    // The panel below is multiplied by the block's inverse instead of solved with it: all of it is
    // a product then.
    const std::vector<float> inverse = InverseOfBlock(diagonal, size, n);
    float* under = diagonal + size * n;
    CopyBlock(under, below, size, n, 1, panel);
    Multiply(below, size, size, {panel.data(), size, 1}, {inverse.data(), 1, size}, under, n);
    CopyBlock(under, below, size, n, -1, negated);
    AddLowerProduct(below, size, negated.data(), size, under, n, under + size, n);
  }
  return n;
}

int64_t InvertLower(float* l, int64_t n, const std::function<bool()>& stopped) {
  std::vector<float> left, sums;
  for (int64_t i = 0; i < n; i += kBlock) {
    if (stopped && stopped()) return kStopped;
    const int64_t size = std::min(kBlock, n - i);
    float* rows = l + i * n;
    const std::vector<float> inverse = InverseOfBlock(rows + i, size, n);
    // -L[i, :i] times the inverse of what is above, which is a triangle too.
    CopyBlock(rows, size, i, n, -1, left);
    sums.assign(static_cast<size_t>(size * i), 0.0f);
    ParallelFor(Ceil(i, kTile), [&](int64_t task) {
      const int64_t j = task * kTile;
      AddMatrixProduct(size, std::min(kTile, i - j), i - j, {left.data() + j, i, 1},
                       {l + j * n + j, n, 1}, sums.data() + j, i);
    });
    if (i > 0) Multiply(size, i, size, {inverse.data(), size, 1}, {sums.data(), i, 1}, rows, n);
    for (int64_t r = 0; r < size; ++r) {
      std::copy_n(inverse.data() + r * size, size, rows + r * n + i);
      std::fill(rows + r * n + i + size, rows + (r + 1) * n, 0.0f);
    }
  }
  return n;
}

int64_t UpperFactorOfInverse(float* a, int64_t n, const std::function<bool()>& stopped) {
  // Turned around, A = R R^T is a lower factorization.
  Reverse(a, n * n);
  if (const int64_t good = CholeskyLower(a, n, stopped); good < n) return good;
  if (const int64_t good = InvertLower(a, n, stopped); good < n) return good;
  Reverse(a, n * n);
  return n;
}

}  // namespace quantd
