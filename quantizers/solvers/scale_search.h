// Data-free choice of a block's scale (and minimum) by trying several and refitting each by
// weighted least squares. Source: make_qkx2_quants, make_qx_quants, make_q3_quants and
// quantize_row_iq4_nl_impl in ggml-quants.c of ggml 0.25.3; results are bit-exact to them.
//
// All functions work on `blocks` consecutive blocks of `block` (16 or 32) elements. One vector lane
// holds one block and does its operations in upstream's order, so any vector width gives the same
// bits.
#ifndef QUANTD_QUANTIZERS_SOLVERS_SCALE_SEARCH_H_
#define QUANTD_QUANTIZERS_SOLVERS_SCALE_SEARCH_H_

#include <cstdint>

namespace quantd {

// What an element's error is multiplied by.
enum class ErrorWeight {
  kGiven,             // `weights[i]`
  kSquare,            // x^2
  kMagnitude,         // |x|
  kRmsPlusMagnitude,  // sqrt(mean of x^2 in the block) + |x|
};

// x ~ scale * code + minimum with codes 0..max_code and minimum <= 0; steps + 1 trial scales
// (max_code + first + step * i) / range.
struct AffineSearch {
  int block;
  int max_code;
  float first;
  float step;
  int steps;
  bool absolute_error;  // else squared
  ErrorWeight weight;
};

// x ~ scale * (code - max_code) with codes 0..2 max_code - 1; 19 trial scales.
struct SymmetricSearch {
  int block;
  int max_code;
  ErrorWeight weight;  // kGiven or kSquare
};

// x ~ scale * values[code] with 16 ascending values; 2 tries + 1 trial scales, block of 32.
struct TableSearch {
  const float* values;
  const float* midpoints;  // 15: (values[i] + values[i + 1]) / 2
  int tries;
  ErrorWeight weight;  // kGiven or kSquare
};

struct ScaleSearch {
  const char* isa;
  // `negated_minimum` gets -minimum. `weights` is looked at for kGiven only.
  void (*affine)(const AffineSearch& search, const float* x, const float* weights, int64_t blocks,
                 float* scale, float* negated_minimum, uint8_t* codes);
  void (*symmetric)(const SymmetricSearch& search, const float* x, const float* weights,
                    int64_t blocks, float* scale, uint8_t* codes);
  // Like `symmetric` for blocks of 16, by coordinate descent on the codes (weights x^2).
  void (*descent)(int max_code, const float* x, int64_t blocks, float* scale, uint8_t* codes);
  void (*table)(const TableSearch& search, const float* x, const float* weights, int64_t blocks,
                float* scale);

  // codes = clamp(round(x + shift) / scale), low, high) - low, half to even; blocks with scale 0
  // keep their codes. `shift` may be null for 0.
  void (*round_to_scale)(int block, const float* x, const float* scale, const float* shift, int low,
                         int high, int64_t blocks, uint8_t* codes);
  // Nearest of the 16 values to x * inverse_scale, for blocks of 32.
  void (*nearest_in_table)(const TableSearch& search, const float* x, const float* inverse_scale,
                           int64_t blocks, uint8_t* codes);
};

// The widest variant that this processor runs.
const ScaleSearch& BestScaleSearch();
// All variants that this processor runs, for tests. The last one is the best; null-terminated.
const ScaleSearch* const* AllScaleSearches();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SCALE_SEARCH_H_
