// The loops of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 without importance, compiled once per instruction
// set, with the same bits.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_LEGACY_LOOPS_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_LEGACY_LOOPS_H_

#include <cstdint>

namespace quantd::gguf {

// Of `blocks` blocks of 32 numbers: scale [blocks], offset [blocks], codes [blocks, 32].
struct LegacyLoops {
  using Symmetric = void (*)(const float* x, int64_t blocks, float* scale, uint8_t* codes);
  using Affine = void (*)(const float* x, int64_t blocks, float* scale, float* offset,
                          uint8_t* codes);
  const char* isa;
  Symmetric q4_0, q5_0, q8_0;
  Affine q4_1, q5_1;
};

// The widest variant that this processor runs.
const LegacyLoops& BestLegacyLoops();
// All variants that this processor runs, for tests; null-terminated.
const LegacyLoops* const* AllLegacyLoops();

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_LEGACY_LOOPS_H_
