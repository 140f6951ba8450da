#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/codecs/fp_quant.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

// What a block's largest value is likely to stand for, the likeliest first: all of up to 3 times a
// scale is also of up to 6 times half of it.
constexpr std::array<float, 7> kTopsOfMax = {6, 4, 3, 2, 1.5f, 1, 0.5f};
constexpr std::array<float, 7> kTopsOfPowers = {3, 4, 6, 2, 1.5f, 1, 0.5f};

// Scales that a value allows: those whose product with its code rounds to it.
struct Interval {
  double low = 0;
  double high = INFINITY;
};

// The block's codes and scale, found in the values that they stand for.
class BlockRecovery {
 public:
  BlockRecovery(const Fp4Blocks& blocks, DType dtype, float post_scale)
      : blocks_(blocks), dtype_(dtype), post_scale_(post_scale) {}

  // False when no scale makes these values; `codes` are then undefined.
  bool Find(const float* values, int64_t count, uint8_t* codes, float* scale) const {
    float largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
    *scale = 0;
    if (largest == 0) return Fits(values, count, codes, 0);
    // Upstream's scales first; a scale of its own, for values that another program made, last.
    for (const bool own : {false, true}) {
      for (const float top : is_power() ? kTopsOfPowers : kTopsOfMax) {
        const float guess = largest / top;
        SetCodes(values, count, guess, codes);
        const Interval allowed = AllowedScales(values, count, codes);
        if (!(allowed.low <= allowed.high)) continue;
        *scale = own ? static_cast<float>((allowed.low + allowed.high) / 2)
                     : UpstreamsScale(guess / post_scale_);
        if (Fits(values, count, codes, *scale)) return true;
      }
    }
    return false;
  }

 private:
  bool is_power() const { return blocks_.scale != Fp4Blocks::Scale::kE4M3OfMax; }

  static void SetCodes(const float* values, int64_t count, float step, uint8_t* codes) {
    for (int64_t i = 0; i < count; ++i) {
      const float x = std::min(std::abs(values[i]) / step, kE2M1Max);
      codes[i] = static_cast<uint8_t>((E2M1FromClamped(x) & 7) | (std::signbit(values[i]) ? 8 : 0));
    }
  }

  Interval AllowedScales(const float* values, int64_t count, const uint8_t* codes) const {
    // Bits of the mantissa, and the exponent of the last bit of the smallest numbers.
    const int bits = dtype_ == DType::kBF16 ? 7 : dtype_ == DType::kF16 ? 10 : 23;
    const int least = dtype_ == DType::kBF16 ? -133 : dtype_ == DType::kF16 ? -24 : -149;
    Interval allowed;
    for (int64_t i = 0; i < count; ++i) {
      const double value = std::abs(values[i]);
      if (value == 0) continue;
      const double half = std::ldexp(0.5, std::max(std::ilogb(value) - bits, least));
      const double factor = static_cast<double>(FloatFromE2M1(codes[i] & 7)) * post_scale_;
      allowed.low = std::max(allowed.low, (value - half) / factor);
      allowed.high = std::min(allowed.high, (value + half) / factor);
    }
    return allowed;
  }

  // The scale near `about` that the rule may give.
  float UpstreamsScale(float about) const {
    if (is_power()) return std::ldexp(1.0f, std::ilogb(about * 1.4142135f));
    return FloatFromE4M3(E4M3FromFloat(std::min(about, kE4M3Max)));
  }

  bool Fits(const float* values, int64_t count, uint8_t* codes, float scale) const {
    for (int64_t i = 0; i < count; ++i) {
      if (scale == 0) codes[i] = std::signbit(values[i]) ? 8 : 0;
      const float value = RoundTo(dtype_, FloatFromE2M1(codes[i]) * scale * post_scale_);
      if (value != values[i]) return false;
    }
    return true;
  }

  const Fp4Blocks& blocks_;
  const DType dtype_;
  const float post_scale_;
};

}  // namespace

absl::Status RecoverFp4(const Fp4Blocks& blocks, const TensorView& values, QuantizedTensor* out) {
  out->scale_dtype = DType::kF32;
  out->codes.resize(static_cast<size_t>(out->rows * out->cols));
  out->scale.resize(static_cast<size_t>(out->block_count()));
  const int64_t width = out->block.cols;
  const BlockRecovery recovery(blocks, values.dtype, out->post_scale);
  // The first block of each row that is none, or -1.
  std::vector<int64_t> wrong(static_cast<size_t>(out->rows), -1);
  ParallelFor(out->rows, [&](int64_t row) {
    std::vector<float> line(static_cast<size_t>(out->cols));
    LoadFloats(values, row * out->cols, out->cols, line.data());
    for (int64_t first = 0; first < out->cols && wrong[row] < 0; first += width) {
      const int64_t block = first / width;
      const int64_t at = row * out->cols + first;
      if (!recovery.Find(&line[first], width, &out->codes[at], &out->scale[at / width])) {
        wrong[row] = block;
      }
    }
  });
  for (int64_t row = 0; row < out->rows; ++row) {
    if (wrong[row] < 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("row ", row, ", block ", wrong[row], " of ",
                                                   width,
                                                   " values: found others than an FP4 scale gives "
                                                   "(0, 0.5, 1, 1.5, 2, 3, 4 and 6 times it), or "
                                                   "no numbers; expected what fp_quant writes"));
  }
  return absl::OkStatus();
}

}  // namespace quantd
