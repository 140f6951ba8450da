#include "quantizers/grids/four_bit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quantd {
namespace {

FourBitTable MakeTable(const std::array<float, 16>& values) {
  FourBitTable table;
  table.values = values;
  std::iota(table.code_of_rank.begin(), table.code_of_rank.end(), uint8_t{0});
  std::stable_sort(table.code_of_rank.begin(), table.code_of_rank.end(),
                   [&](uint8_t a, uint8_t b) { return values[a] < values[b]; });
  for (size_t i = 0; i < table.midpoints.size(); ++i) {
    const float below = values[table.code_of_rank[i]];
    const float above = values[table.code_of_rank[i + 1]];
    table.midpoints[i] = (below + above) / 2.0f;
  }
  return table;
}

// torch.linspace(0.1, 1, count) in float32: stepped from both ends, each value one fused operation.
std::vector<float> TenthToOne(int count) {
  const float start = 0.1f;
  const float step = (1.0f - start) / static_cast<float>(count - 1);
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) {
    values[i] = i < count / 2 ? std::fma(step, static_cast<float>(i), start)
                              : std::fma(-step, static_cast<float>(count - 1 - i), 1.0f);
  }
  return values;
}

std::vector<float> MakeDynamicMap() {
  constexpr int kExponents = 7;
  std::vector<float> map = {0.0f, 1.0f};
  for (int i = 0; i < kExponents; ++i) {
    const std::vector<float> bounds = TenthToOne((1 << i) + 1);
    const float scale = static_cast<float>(std::pow(10.0, i - (kExponents - 1)));
    for (size_t j = 0; j + 1 < bounds.size(); ++j) {
      const float mean = (bounds[j] + bounds[j + 1]) / 2.0f;
      map.push_back(scale * mean);
      map.push_back(-(scale * mean));
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const FourBitTable& Nf4Table() {
  static const FourBitTable table = MakeTable(
      {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
       -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
       0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
       0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f});
  return table;
}

const FourBitTable& Fp4Table() {
  static const FourBitTable table = [] {
    constexpr float kMagnitudes[8] = {0, 0.0625f, 8, 12, 4, 6, 2, 3};
    std::array<float, 16> values;
    for (int code = 0; code < 8; ++code) {
      values[code] = kMagnitudes[code] / 12.0f;
      // Pattern 8 is stored as plus zero.
      values[code + 8] = code == 0 ? 0.0f : -values[code];
    }
    return MakeTable(values);
  }();
  return table;
}

const std::vector<float>& SignedDynamicMap() {
  static const std::vector<float> map = MakeDynamicMap();
  return map;
}

}  // namespace quantd
