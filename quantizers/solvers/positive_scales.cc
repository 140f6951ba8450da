#include "quantizers/solvers/positive_scales.h"

#include <algorithm>

namespace quantd {
namespace {

constexpr float kTiny = 1e-15f;

// The inverse scale with the least squared error among the plain one and eight around it.
float BestInverse(int count, int max_code, float max, const float* x, const float* weights) {
  float best_inverse = static_cast<float>(max_code) / max;
  float best_error = 0;
  for (int trial = -5; trial <= 4; ++trial) {
    if (trial == 0) continue;
    const bool plain = trial == -5;
    const float inverse =
        plain ? best_inverse
              : (0.1f * static_cast<float>(trial) + static_cast<float>(max_code)) / max;
    const float scale = 1.0f / inverse;
    float error = 0;
    for (int i = 0; i < count; ++i) {
      int code = NearestEvenInt(inverse * x[i]);
      code = plain ? static_cast<uint8_t>(code) : std::min(max_code, code);
      const float diff = x[i] - scale * static_cast<float>(code);
      error += weights[i] * diff * diff;
    }
    if (plain || error < best_error) {
      best_error = error;
      best_inverse = inverse;
    }
  }
  return best_inverse;
}

}  // namespace

float FitPositiveScales(int count, int max_code, const float* x, const float* weights,
                        uint8_t* codes) {
  float max = 0;
  for (int i = 0; i < count; ++i) max = std::max(max, x[i]);
  if (max < kTiny) {
    std::fill_n(codes, count, uint8_t{0});
    return 0;
  }
  const float inverse = BestInverse(count, max_code, max, x, weights);
  float sum_lx = 0, sum_l2 = 0;
  for (int i = 0; i < count; ++i) {
    const int code = std::min(max_code, NearestEvenInt(inverse * x[i]));
    const float l = static_cast<float>(code);
    codes[i] = static_cast<uint8_t>(code);
    sum_lx += weights[i] * x[i] * l;
    sum_l2 += weights[i] * l * l;
  }
  bool changed = true;
  for (int sweep = 0; sweep < 5 && changed; ++sweep) {
    changed = false;
    for (int i = 0; i < count; ++i) {
      const float w = weights[i];
      const float old = static_cast<float>(codes[i]);
      float slx = sum_lx - w * x[i] * old;
      float sl2 = sum_l2 - w * old * old;
      if (!(slx > 0 && sl2 > 0)) continue;
      const int code = std::min(max_code, NearestEvenInt(x[i] * sl2 / slx));
      if (code == codes[i]) continue;
      const float l = static_cast<float>(code);
      slx += w * x[i] * l;
      sl2 += w * l * l;
      if (slx * slx * sum_l2 > sum_lx * sum_lx * sl2) {
        codes[i] = static_cast<uint8_t>(code);
        sum_lx = slx;
        sum_l2 = sl2;
        changed = true;
      }
    }
  }
  return sum_l2 > 0 ? sum_lx / sum_l2 : 0.0f;
}

}  // namespace quantd
