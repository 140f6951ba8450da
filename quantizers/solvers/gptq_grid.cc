#include "quantizers/solvers/gptq_grid.h"

#include <bit>
#include <cmath>
#include <limits>

namespace quantd {
namespace {

constexpr int kShrinks = 80;
constexpr float kShrinkSteps = 100;

// |x|^power for power > 0 in float32 arithmetic alone, so that it is the same everywhere and
// compilers can do several at once; relative error below 1e-6 for |power * log2(x)| < 126.
float Power(float x, float power) {
  const float magnitude = std::max(std::fabs(x), 1e-18f);
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  // magnitude = 2^exponent * m with m in [sqrt(1/2), sqrt(2)).
  const uint32_t shifted = bits - 0x3f3504f3u;
  const float exponent = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float m = std::bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u);
  // ln m = 2 atanh(t).
  const float t = (m - 1.0f) / (m + 1.0f);
  const float t2 = t * t;
  const float series =
      t * (2.0f + t2 * (0.6666667f + t2 * (0.4f + t2 * (0.2857143f + t2 * 0.2222222f))));
  const float log2 = exponent + series * 1.4426950f;
  const float y = std::clamp(log2 * power, -126.0f, 126.0f);
  const float whole = RoundHalfEven(y);
  const float f = (y - whole) * 0.6931472f;  // 2^y = 2^whole e^f
  const float e =
      1.0f +
      f * (1.0f + f * (0.5f + f * (0.16666667f +
                                   f * (0.041666667f + f * (0.0083333333f + f * 0.0013888889f)))));
  return e * std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(whole) + 127) << 23);
}

float ErrorOf(const GptqGrid& grid, const float* weights, int64_t count, float most, float power) {
  // Sixteen sums, so that compilers need no permission to reorder.
  float sums[16] = {};
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t lanes = std::min<int64_t>(16, count - i);
    for (int64_t j = 0; j < lanes; ++j) {
      const float w = weights[i + j];
      sums[j] += Power(grid.ValueOf(grid.CodeOf(w, most)) - w, power);
    }
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

struct Range {
  float low, high;
};

Range RangeOf(const float* weights, int64_t count, bool sym) {
  Range range = {0, 0};
  for (int64_t i = 0; i < count; ++i) {
    range.low = std::min(range.low, weights[i]);
    range.high = std::max(range.high, weights[i]);
  }
  if (sym) {
    range.high = std::max(-range.low, range.high);
    // Upstream leaves the low end of a group without negatives at zero.
    if (range.low < 0) range.low = -range.high;
  }
  if (range.low == 0 && range.high == 0) return {-1, 1};
  return range;
}

GptqGrid GridOf(const Range& range, int bits, bool sym) {
  GptqGrid grid;
  // Never zero, to divide by; in float16 such a scale is zero.
  const float steps = static_cast<float>((1 << bits) - 1);
  grid.scale = std::clamp((range.high - range.low) / steps, std::numeric_limits<float>::min(),
                          std::numeric_limits<float>::max());
  grid.zero = sym ? static_cast<float>(1 << (bits - 1)) : RoundHalfEven(-range.low / grid.scale);
  return grid;
}

}  // namespace

GptqGrid FindGptqGrid(const float* weights, int64_t count, int bits, bool sym, double mse) {
  const Range range = RangeOf(weights, count, sym);
  const GptqGrid plain = GridOf(range, bits, sym);
  if (!(mse > 0)) return plain;
  const float most = static_cast<float>((1 << bits) - 1), power = static_cast<float>(mse);
  GptqGrid best = plain;
  float least = std::numeric_limits<float>::infinity();
  const auto consider = [&](const GptqGrid& grid) {
    const float error = ErrorOf(grid, weights, count, most, power);
    if (!(error < least)) return;
    least = error;
    best = grid;
  };
  for (int i = 0; i < kShrinks; ++i) {
    const float shrink = 1.0f - static_cast<float>(i) / kShrinkSteps;
    const Range shrunk = {shrink * range.low, shrink * range.high};
    GptqGrid grid = GridOf(shrunk, bits, sym);
    consider(grid);
    if (sym || bits != 2) continue;
    const float exact = -shrunk.low / grid.scale;
    grid.zero += exact > grid.zero ? 1.0f : -1.0f;
    if (grid.zero >= 0 && grid.zero <= most) consider(grid);
  }
  return best;
}

}  // namespace quantd
