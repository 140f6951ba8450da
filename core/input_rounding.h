// How the inputs of a matrix are rounded before they are multiplied, where a model runs with its
// activations quantized as its checkpoint asks for.
#ifndef QUANTD_CORE_INPUT_ROUNDING_H_
#define QUANTD_CORE_INPUT_ROUNDING_H_

#include <cstdint>
#include <string>

#include "core/fp4_blocks.h"
#include "core/status.h"

namespace quantd {

// With one scale for all inputs, or one found for every token or for runs of `group` of its inputs,
// the last of them shorter where they do not come out even.
// All arithmetic is in float32, as upstream's is in a float32 model:
//
//   x' = (nearest(clamp(x / scale + zero_point)) - zero_point) * scale
struct InputRounding {
  enum class Values { kNone, kInteger, kE2M1, kE4M3, kE5M2 };
  Values values = Values::kNone;
  int bits = 8;           // kInteger: 1..8
  bool is_signed = true;  // kInteger
  // Integers are nearest(x * (1 / scale)) + zero_point, then clamped (Quark, whose forward is
  // torch.fake_quantize_per_tensor_affine).
  bool by_reciprocal = false;

  // Scales are found of the inputs' least and greatest value, zero among them; else `scale` and
  // `zero_point` stand for all. (compressed-tensors 0.20, calculate_qparams.)
  bool dynamic = false;
  bool symmetric = true;   // dynamic
  int64_t group = 0;       // dynamic; 0: a token
  float global_scale = 0;  // dynamic, not 0: scales are rounded to E4M3 / global_scale (NVFP4)
  // Dynamic and symmetric (FBGEMM): magnitudes count as at most this, 0: as they are; and the least
  // scale, 0: what would be zero is float32's epsilon.
  float upper_bound = 0;
  float least_scale = 0;
  float scale = 0;
  float zero_point = 0;
  // Dynamic kE2M1 of runs of fp4.size() inputs, rounded to code * scale / global_scale of `fp4`: of
  // the fields above only `values` and `dynamic` count.
  Fp4Blocks fp4;

  bool any() const { return values != Values::kNone; }
  bool operator==(const InputRounding&) const = default;
};

// A float format by what rounding to it needs.
struct SmallFloat {
  int mantissa_bits = 0;
  int least_exponent = 0;  // of normal numbers; below it, steps stay the same
  float largest = 0;
};
// Of kE2M1, kE4M3 or kE5M2.
SmallFloat SmallFloatOf(InputRounding::Values values);
// The least and the greatest value.
float LowOf(const InputRounding& rounding);
float HighOf(const InputRounding& rounding);

// "int8, one scale" for messages and descriptions.
std::string Describe(const InputRounding& rounding);

// INVALID_ARGUMENT for bits, groups and scales that mean nothing.
absl::Status Validate(const InputRounding& rounding);

// One token, [cols]; `to` may be `from`. What backends are tested against.
void RoundInputs(const InputRounding& rounding, const float* from, int64_t cols, float* to);

}  // namespace quantd

#endif  // QUANTD_CORE_INPUT_ROUNDING_H_
