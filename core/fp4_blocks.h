// Blocks of E2M1 numbers under one scale, found as FP-Quant finds them of values that a rotation
// has spread (fp_quant 0.3.2, module/triton/mxfp4.py and nvfp4.py; QuTLASS, epilogue_quant.h). All
// arithmetic is in float32.
#ifndef QUANTD_CORE_FP4_BLOCKS_H_
#define QUANTD_CORE_FP4_BLOCKS_H_

#include <cstdint>

namespace quantd {

// A value of a block is code * scale / global_scale.
struct Fp4Blocks {
  enum class Scale {
    kNone,
    kE4M3OfMax,         // blocks of 16: global_scale * max / 6, rounded to E4M3, at most 448
    kPowerOfMax,        // blocks of 32: the power of two at or below max; codes are 3 x / scale
    kPowerOfDeviation,  // blocks of 32: the power of two at or below 0.487 standard deviations
  };
  Scale scale = Scale::kNone;
  float global_scale = 1;
  // As QuTLASS computes, with the tensor cores' conversion, whose zeros keep the value's sign; its
  // approximate reciprocals (1 ulp) are exact here. Else as the Triton kernels compare: ties go
  // towards zero, and what is not positive rounds to minus zero.
  bool half_to_even = false;

  bool any() const { return scale != Scale::kNone; }
  int64_t size() const { return scale == Scale::kE4M3OfMax ? 16 : 32; }
  bool operator==(const Fp4Blocks&) const = default;
};

// The value of an E2M1 code: sign << 3 | index in {0, 0.5, 1, 1.5, 2, 3, 4, 6}.
float FloatFromE2M1(uint8_t code);

// Codes of `count` finite values; returns their scale, never so large that the values overflow. A
// block whose scale is 0 has values of 0.
float EncodeFp4Block(const Fp4Blocks& blocks, const float* values, int64_t count, uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_CORE_FP4_BLOCKS_H_
