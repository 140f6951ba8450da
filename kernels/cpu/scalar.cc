// The reference: what the vector kernels must compute, written to be read. Runs on every machine.
#include <cmath>
#include <cstring>

#include "core/float_types.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_types.h"

namespace quantd::cpu::scalar {
namespace {

constexpr int kLanes = 4;
using Vec = Vectors<kLanes>::Floats;
constexpr int kScoreQueries = 2, kValueQueries = 4, kValueWidth = 2;

inline Vec LoadHalf(const uint16_t* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = FloatFromF16(p[i]);
  return v;
}
inline void StoreHalf(const Vec& v, uint16_t* p) {
  for (int i = 0; i < kLanes; ++i) p[i] = F16FromFloat(v[i]);
}
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }

#include "kernels/cpu/row_ops.inc"

#include "kernels/cpu/attention_tile.inc"

float ScaleAt(const std::byte* scales, bool half, int row) {
  if (half) return FloatFromF16(reinterpret_cast<const uint16_t*>(scales)[row]);
  return reinterpret_cast<const float*>(scales)[row];
}

// Code of one row at column `col` of a group's lines, as panel.h describes them.
int NibbleAt(const std::byte* lines, int row, int64_t col) {
  const int byte = static_cast<int>(lines[(col / 8) * kLineBytes + row * 4 + col % 4]);
  return col % 8 < 4 ? byte & 15 : byte >> 4;
}

int ByteAt(const std::byte* lines, int row, int64_t col) {
  return static_cast<int>(lines[(col / 4) * kLineBytes + row * 4 + col % 4]);
}

// One row of the panel against one token.
float IntDot(const IntTile& t, int row, int token) {
  float sum = 0;
  for (int64_t block = 0; block < t.groups * t.blocks_per_group; ++block) {
    const int64_t group = block / t.blocks_per_group;
    const int64_t first = block % t.blocks_per_group * t.block_cols;  // in the group
    const std::byte* lines = t.panel + t.layout.codes(group);
    const int64_t at = block * t.tokens + token;
    int32_t dot = t.zero_mode == ZeroMode::kConstant ? t.x_start[at] : 0;
    for (int64_t i = 0; i < t.block_cols; ++i) {
      const int code = t.element == Element::kU4 ? NibbleAt(lines, row, first + i)
                                                 : ByteAt(lines, row, first + i);
      const int64_t col = block * t.block_cols + i;
      const int8_t* terms = t.x + (col / 4 * t.tokens + token) * kQuadBytes + col % 4;
      dot += code * (256 * terms[0] + terms[4]);
    }
    const float scale = ScaleAt(t.panel + t.layout.scales(group), t.half_scales, row);
    float zero = 0;
    if (t.zero_mode != ZeroMode::kConstant) {
      zero = ScaleAt(t.panel + t.layout.zeros(group), t.half_scales, row);
    }
    float value = static_cast<float>(dot);
    if (t.zero_mode == ZeroMode::kZero) value -= zero * t.x_sum[at];
    sum += value * (scale * t.x_scale[at]);
    if (t.zero_mode == ZeroMode::kOffset) sum += zero * t.x_sum[at];
  }
  return sum;
}

void IntTileKernel(const IntTile& t) {
  for (int token = 0; token < t.tokens; ++token) {
    for (int row = 0; row < kPanelRows; ++row) {
      t.out[token * kPanelRows + row] = IntDot(t, row, token);
    }
  }
}

float WeightAt(const FloatTile& t, const std::byte* lines, int row, int64_t col) {
  const auto* halves = reinterpret_cast<const uint16_t*>(lines);
  switch (t.element) {
    case Element::kF32:
      return reinterpret_cast<const float*>(lines)[col * kPanelRows + row];
    case Element::kF16:
      return FloatFromF16(halves[col * kPanelRows + row]);
    case Element::kBf16:
      return FloatFromBf16(halves[(col / 2 * kPanelRows + row) * 2 + col % 2]);
    case Element::kLut4:
      return t.table[NibbleAt(lines, row, col)];
    default:
      return FloatFromE4M3(static_cast<uint8_t>(ByteAt(lines, row, col)));
  }
}

void FloatTileKernel(const FloatTile& t) {
  const auto* x = static_cast<const float*>(t.x);
  for (int token = 0; token < t.tokens; ++token) {
    for (int row = 0; row < kPanelRows; ++row) {
      float total = 0;
      for (int64_t group = 0; group < t.groups; ++group) {
        const std::byte* lines = t.panel + t.layout.codes(group);
        float sum = 0;
        for (int64_t i = 0; i < t.group_cols; ++i) {
          sum += WeightAt(t, lines, row, i) * x[(group * t.group_cols + i) * t.tokens + token];
        }
        if (t.layout.header_bytes != 0) {
          sum *= ScaleAt(t.panel + t.layout.scales(group), t.half_scales, row);
        }
        total += sum;
      }
      t.out[token * kPanelRows + row] = total;
    }
  }
}

}  // namespace

const KernelTable& Table() {
  static constexpr KernelTable kTable = {
      .name = "scalar",
      .extensions = [] { return std::string(); },
      .supported = [] { return true; },
      .int_tokens = 4,
      .dense_tokens = 4,
      .code_tokens = 4,
      .bf16_format = XFormat::kF32,
      .fp8_format = XFormat::kF32,
      .int_tile = IntTileKernel,
      .float_tile = FloatTileKernel,
      .attention_tile = Attend,
      .normalize = NormalizeRow,
      .rotate = RotateRow,
      .quantize = QuantizeRow,
      .split_bf16 = SplitBf16Row,
      .to_f16 = F16Row,
      .activate = ActivateAny,
      .silu_mul = SiluMul,
  };
  return kTable;
}

}  // namespace quantd::cpu::scalar
