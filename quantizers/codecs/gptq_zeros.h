// Zero points in GPTQ's qzeros: one row of codes per group, packed along the outputs, as they are
// or minus one. There are two ways to subtract it, which differ where a zero point is 0.
#ifndef QUANTD_QUANTIZERS_CODECS_GPTQ_ZEROS_H_
#define QUANTD_QUANTIZERS_CODECS_GPTQ_ZEROS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "quantizers/codecs/bit_packing.h"

namespace quantd {

// kPlain: gptq_v2 and gptq_p. kFieldMinusOne: every field modulo 2^bits; how AutoGPTQ's kernels
// read. kWordMinusOne: GPTQModel's v1; a one in every field is subtracted from the whole 32-bit
// word at 2, 4 and 8 bits, so that a 0 borrows from its neighbours; at 3 bits like kFieldMinusOne.
enum class GptqZeros { kPlain, kFieldMinusOne, kWordMinusOne };

absl::string_view NameOf(GptqZeros spelling);
GptqZeros GptqZerosNamed(absl::string_view name);  // kPlain for unknown names

struct GptqZeroTable {
  int64_t groups;
  int64_t rows;  // outputs
  int bits;
  WordPacking packing;
};

// codes [groups, rows] to words [groups, WordsPerRow(rows)] and back.
std::vector<uint32_t> PackGptqZeros(const GptqZeroTable& table, std::span<const uint8_t> codes,
                                    GptqZeros spelling);
std::vector<uint8_t> UnpackGptqZeros(const GptqZeroTable& table, std::span<const uint32_t> words,
                                     GptqZeros spelling);

// How the zero points of a symmetric layer are spelled really: exporters that label v2 files as v1
// exist (vllm-project/vllm pull 38966), and all zero points are 2^(bits - 1). `told` where the
// words fit neither.
GptqZeros SymmetricSpelling(const GptqZeroTable& table, std::span<const uint32_t> words,
                            GptqZeros told);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GPTQ_ZEROS_H_
