#include "quantizers/solvers/four_over_six.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

using Rule = FourOverSixSpec::Rule;

// What upstream's arithmetic makes of 0 / 0 on a CPU: an FP4 code in a block of scale 2^-127.
constexpr uint8_t kNanCode = 11;

// The E2M1 magnitude nearest to |x|, ties to even; beyond 6 in steps of 2, as upstream leaves it.
float RoundMagnitude(float magnitude) {
  if (magnitude < 2) return RoundHalfEven(2 * magnitude) / 2;
  if (magnitude < 4) return RoundHalfEven(magnitude);
  return 2 * RoundHalfEven(magnitude / 2);
}

// The E2M1 value of a scaled weight; the sign of zero follows the weight, but for zero itself.
float RoundValue(float x) {
  if (x == 0) return 0.0f;
  return std::copysign(RoundMagnitude(std::abs(x)), x);
}

// sign, two bits of exponent and one of mantissa, cut out of the number. Numbers beyond 6, which
// only blocks far below the matrix' largest magnitude have, run over into other codes upstream too.
uint8_t CodeOf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 31 << 3;
  if ((bits & 0x7fffffffu) == 0) return static_cast<uint8_t>(sign);
  const uint32_t exponent = bits >> 23 & 0xff;
  const bool is_half = exponent == 126 && (bits & 0x7fffffu) == 0;
  const uint32_t mantissa = is_half ? 1 : bits >> 22 & 1;
  return static_cast<uint8_t>((sign | (exponent - 126) << 1 | mantissa) & 15u);
}

struct Candidate {
  uint8_t scale_code = 0;
  std::vector<float> values;  // E2M1
  float error = 0;
};

// One block for one choice of its scale.
void TryScale(const std::vector<float>& block, const FourOverSixSpec& spec, float absmax,
              float stretch, Candidate* out) {
  const float full = spec.full_scale();
  const float top = spec.rule == Rule::kStatic4 ? 4.0f : 6.0f;
  float largest = 0;
  for (const float x : block) largest = std::max(largest, std::abs(x));
  const float encode = full / absmax;
  float scale = absmax == 0 ? 0.0f : largest / top * encode;
  if (stretch != 1) scale *= stretch;
  out->scale_code = E4M3FromClamped(std::min(scale, kE4M3Max));
  const float stored = FloatFromE4M3(out->scale_code);
  const float factor = 1.0f / (1.0f / encode * stored);
  out->values.resize(block.size());
  for (size_t i = 0; i < block.size(); ++i) {
    out->values[i] = stored != 0 ? RoundValue(block[i] * factor) : 0.0f;
  }
  if (spec.is_static()) return;
  std::vector<float> errors(block.size());
  for (size_t i = 0; i < block.size(); ++i) {
    const float difference = out->values[i] * stored * absmax / full - block[i];
    errors[i] = spec.rule == Rule::kMse ? difference * difference : std::abs(difference);
  }
  out->error = spec.rule == Rule::kAbsMax ? *std::max_element(errors.begin(), errors.end())
                                          : TorchSum(errors);
}

Candidate ChooseNvidia(const std::vector<float>& block, const FourOverSixSpec& spec, float absmax) {
  Candidate six;
  TryScale(block, spec, absmax, 1.0f, &six);
  if (spec.is_static()) return six;
  Candidate four;
  TryScale(block, spec, absmax, 1.5f, &four);
  return four.error < six.error ? four : six;
}

// The next power of two at or above largest / 6 (4).
Candidate ChoosePowerOfTwo(const std::vector<float>& block, const FourOverSixSpec& spec) {
  Candidate out;
  float largest = 0;
  for (const float x : block) largest = std::max(largest, std::abs(x));
  const uint32_t bits =
      std::bit_cast<uint32_t>(largest / (spec.rule == Rule::kStatic4 ? 4.0f : 6.0f));
  const uint32_t exponent = std::min(254u, (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1u : 0u));
  out.scale_code = static_cast<uint8_t>(exponent);
  const float scale = std::bit_cast<float>(exponent << 23);
  for (const float x : block) out.values.push_back(RoundValue(x / scale));
  return out;
}

// Rows and columns of one block, with zeros past the matrix.
std::vector<float> Gather(const TensorView& weight, int64_t row, int64_t rows, int64_t col,
                          int64_t cols) {
  std::vector<float> block(static_cast<size_t>(rows * cols));
  const int64_t width = std::min(cols, weight.shape[1] - col);
  for (int64_t r = 0; r < rows && row + r < weight.shape[0]; ++r) {
    LoadFloats(weight, (row + r) * weight.shape[1] + col, width, block.data() + r * cols);
  }
  return block;
}

void QuantizeBlock(const TensorView& weight, const FourOverSixSpec& spec, float absmax, int64_t row,
                   int64_t block, QuantizedTensor* out) {
  const int64_t width = spec.block(), height = spec.square ? width : 1;
  const std::vector<float> values = Gather(weight, row, height, block * width, width);
  const Candidate best =
      spec.is_mx ? ChoosePowerOfTwo(values, spec) : ChooseNvidia(values, spec, absmax);
  const bool is_nan = spec.is_mx && best.scale_code == 0;
  const int64_t end = std::min(out->cols, (block + 1) * width);
  for (int64_t r = 0; r < height && row + r < out->rows; ++r) {
    const int64_t index = (row + r) * out->block_columns() + block;
    out->scale[index] =
        spec.is_mx ? FloatFromE8M0(best.scale_code) : FloatFromE4M3(best.scale_code);
    for (int64_t c = block * width; c < end; ++c) {
      const float value = best.values[r * width + c - block * width];
      out->codes[(row + r) * out->cols + c] = is_nan ? kNanCode : CodeOf(value);
    }
  }
}

}  // namespace

float FourOverSixSpec::full_scale() const {
  if (is_mx) return 1;
  if (rule == Rule::kStatic4) return 4 * 448;
  // Room for scales half as large again.
  return 6 * (is_static() ? 448 : 256);
}

absl::StatusOr<QuantizedTensor> QuantizeFourOverSix(const TensorView& weight,
                                                    const FourOverSixSpec& spec, float* absmax,
                                                    const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  if (spec.is_mx && !spec.is_static()) {
    return absl::InvalidArgumentError("scale_rule: expected static_6 or static_4 for mxfp4");
  }
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = E2M1Grid();
  out.block = {.rows = 1, .cols = spec.block()};
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.scale.resize(static_cast<size_t>(out.block_count()));
  *absmax = 1;
  if (!spec.is_mx) {
    const std::vector<Range> rows = BlockRanges(weight, {out.rows, out.cols, {}});
    *absmax = 0;
    for (const Range& range : rows) *absmax = std::max(*absmax, range.absmax());
  }
  // Below, full_scale / absmax would be no number that scales can be relative to.
  if (*absmax > 0) *absmax = std::max(*absmax, 0x1p-100f);
  const int64_t height = spec.square ? spec.block() : 1;
  const auto quantize_line = [&](int64_t line) {
    for (int64_t block = 0; block < out.block_columns(); ++block) {
      QuantizeBlock(weight, spec, *absmax, line * height, block, &out);
    }
  };
  RETURN_IF_ERROR(
      ParallelForUnlessStopped((out.rows + height - 1) / height, stopped, quantize_line));
  out.post_scale = *absmax / spec.full_scale();
  out.scale_dtype = spec.is_mx ? DType::kF8E8M0 : DType::kF8E4M3;
  // Upstream multiplies MXFP4's values and scales in float16.
  out.dequantized_dtype = spec.is_mx ? DType::kF16 : DType::kBF16;
  return out;
}

}  // namespace quantd
