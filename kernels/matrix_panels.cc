#include "kernels/matrix_panels.h"

#include <cstring>

namespace quantd {
namespace {

typedef float Four __attribute__((vector_size(16)));

Four LoadFour(const float* from) {
  Four values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

// to[k * width + r] = rows[r * stride + k] for r < 4, four of k.
inline void TransposeFour(const float* rows, int64_t stride, int64_t width, float* to) {
  const Four a = LoadFour(rows), b = LoadFour(rows + stride), c = LoadFour(rows + 2 * stride),
             d = LoadFour(rows + 3 * stride);
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Four out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5),
                       __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                       __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                       __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
  for (int k = 0; k < 4; ++k) std::memcpy(to + k * width, &out[k], sizeof(Four));
}

// The same of two rows.
inline void TransposeTwo(const float* rows, int64_t stride, int64_t width, float* to) {
  const Four a = LoadFour(rows), b = LoadFour(rows + stride);
  const Four out[2] = {__builtin_shufflevector(a, b, 0, 4, 1, 5),
                       __builtin_shufflevector(a, b, 2, 6, 3, 7)};
  for (int k = 0; k < 4; ++k) {
    std::memcpy(to + k * width, reinterpret_cast<const float*>(&out[k / 2]) + k % 2 * 2,
                2 * sizeof(float));
  }
}

// A panel of rows that lie along the memory, `count` of `width`.
void PackAcross(const float* rows, int64_t stride, int64_t count, int64_t inner, int64_t width,
                float* to) {
  const int64_t whole = inner / 4 * 4;
  int64_t r = 0;
  for (; r + 4 <= count; r += 4) {
    for (int64_t k = 0; k < whole; k += 4) {
      TransposeFour(rows + r * stride + k, stride, width, to + k * width + r);
    }
  }
  for (; r + 2 <= count; r += 2) {
    for (int64_t k = 0; k < whole; k += 4) {
      TransposeTwo(rows + r * stride + k, stride, width, to + k * width + r);
    }
  }
  for (; r < count; ++r) {
    for (int64_t k = 0; k < whole; ++k) to[k * width + r] = rows[r * stride + k];
  }
  for (int64_t k = whole; k < inner; ++k) {
    for (int64_t i = 0; i < count; ++i) to[k * width + i] = rows[i * stride + k];
  }
  if (count == width) return;
  for (int64_t k = 0; k < inner; ++k) std::fill(to + k * width + count, to + (k + 1) * width, 0.0f);
}

}  // namespace

template <int kWidth>
void PackPanels(const MatrixOperand& from, int64_t rows, int64_t inner, float* to) {
  int64_t whole = 0;
  if (from.row_stride == 1) {
    // Along the memory: panel by panel would take a few bytes of every page.
    whole = rows / kWidth * kWidth;
    for (int64_t k = 0; k < inner; ++k) {
      const float* line = from.data + k * from.col_stride;
      for (int64_t first = 0; first < whole; first += kWidth) {
        std::memcpy(to + first * inner + k * kWidth, line + first, kWidth * sizeof(float));
      }
    }
    to += whole * inner;
  }
  for (int64_t first = whole; first < rows; first += kWidth, to += kWidth * inner) {
    const int64_t count = std::min<int64_t>(kWidth, rows - first);
    const float* panel = from.data + first * from.row_stride;
    if (from.col_stride == 1) {
      PackAcross(panel, from.row_stride, count, inner, kWidth, to);
      continue;
    }
    for (int64_t k = 0; k < inner; ++k) {
      float* out = to + k * kWidth;
      for (int64_t r = 0; r < count; ++r) out[r] = panel[r * from.row_stride + k * from.col_stride];
      std::fill(out + count, out + kWidth, 0.0f);
    }
  }
}

template void PackPanels<6>(const MatrixOperand&, int64_t, int64_t, float*);
template void PackPanels<32>(const MatrixOperand&, int64_t, int64_t, float*);

}  // namespace quantd
