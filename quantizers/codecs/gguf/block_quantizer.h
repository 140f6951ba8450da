// ggml's reference quantizers, one row per block type. Source: quantize_row_*_ref (without
// importance) and quantize_row_*_impl (with it) in ggml-quants.c of ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_QUANTIZER_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_QUANTIZER_H_

#include <span>

#include "quantizers/codecs/gguf/block_format.h"

namespace quantd::gguf {

// Whole rows of finite numbers; cols is a multiple of the block size.
struct Rows {
  const float* x;           // [count, cols]
  const float* importance;  // [cols], or null
  int64_t count;
  int64_t cols;
};

struct BlockQuantizer {
  enum class Importance {
    kIgnored,
    kUsed,      // where given
    kRequired,  // ggml_quantize_requires_imatrix
  };
  GgmlType type;
  Importance importance;
  // Fills the parts of the rows' blocks; `out` points at those of the first.
  void (*quantize)(const Rows& rows, const Parts& out);
};

// nullptr for types that cannot be quantized to.
const BlockQuantizer* FindBlockQuantizer(GgmlType type);

std::span<const BlockQuantizer> SimpleBlockQuantizers();   // ternary, FP4 and one-bit types
std::span<const BlockQuantizer> LegacyBlockQuantizers();   // Q4_0 ... Q8_0
std::span<const BlockQuantizer> KQuantBlockQuantizers();   // Q2_K ... Q6_K
std::span<const BlockQuantizer> Iq4BlockQuantizers();      // IQ4_NL, IQ4_XS
std::span<const BlockQuantizer> LatticeBlockQuantizers();  // IQ1, IQ2, IQ3

inline float RoundToF16(float v) { return FloatFromF16(F16FromFloat(v)); }

// importance * sqrt(variance + x^2) for every element, where `variance` is factor * the mean of x^2
// over runs of `run` elements.
std::vector<float> ImportanceWeights(const Rows& rows, int64_t run, float factor);

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_QUANTIZER_H_
