// One row per GGUF block type: what a block holds in the terms of QuantizedTensor, and the two
// functions between its bytes and those parts. Layouts: ggml-common.h of ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_FORMAT_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_FORMAT_H_

#include <cstring>
#include <span>

#include "core/float_types.h"
#include "core/quantized_tensor.h"
#include "formats/gguf/gguf.h"

namespace quantd::gguf {

// Where the parts of consecutive blocks lie. `Byte` and `Float` are const for encoding.
template <class Byte, class Float>
struct BasicParts {
  Byte* codes = nullptr;         // [elements]
  Byte* scale_codes = nullptr;   // [elements / scale_block], formats with nested scales
  Byte* offset_codes = nullptr;  // same, formats with offsets
  Float* scale = nullptr;        // d of each block; the element scale of formats without nesting
  Float* offset = nullptr;       // dmin (or m) of each block
};
using Parts = BasicParts<uint8_t, float>;
using ConstParts = BasicParts<const uint8_t, const float>;

struct BlockFormat {
  GgmlType type;
  absl::string_view name;
  int elements;     // per block
  int bytes;        // per block
  int scale_block;  // elements that share an effective scale
  bool nested;      // scale = d * scale_table[scale code]
  bool has_offset;  // -dmin * offset code when nested, else m
  DType scale_dtype;
  // Factors of scale codes; null: the code itself.
  const float* scale_table;
  int scale_codes;  // entries of scale_table, or how many codes there are
  Grid (*grid)();
  // One block. Encode gives false when the codes are none that the format can hold.
  void (*decode)(const uint8_t* block, const Parts& out);
  bool (*encode)(const ConstParts& in, uint8_t* block);
  // Whether different bytes can mean the same; the file's own are kept then.
  bool many_spellings = false;
};

// nullptr for types that are no quantized blocks or are unsupported (Q8_1 and Q8_K never lie in
// files).
const BlockFormat* FindBlockFormat(GgmlType type);

// The rows of each file.
std::span<const BlockFormat> SimpleBlockFormats();   // legacy, ternary, IQ4_NL and FP4 types
std::span<const BlockFormat> KQuantBlockFormats();   // Q2_K ... Q6_K, IQ4_XS
std::span<const BlockFormat> LatticeBlockFormats();  // IQ1, IQ2, IQ3

inline uint16_t LoadU16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
inline void StoreU16(uint16_t v, uint8_t* p) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}
inline float LoadF16(const uint8_t* p) { return FloatFromF16(LoadU16(p)); }
inline void StoreF16(float v, uint8_t* p) { StoreU16(F16FromFloat(v), p); }
inline uint32_t LoadU32(const uint8_t* p) {
  return LoadU16(p) | static_cast<uint32_t>(LoadU16(p + 2)) << 16;
}
inline void StoreU32(uint32_t v, uint8_t* p) {
  StoreU16(static_cast<uint16_t>(v), p);
  StoreU16(static_cast<uint16_t>(v >> 16), p + 2);
}

// Six-bit scales and mins of Q4_K and Q5_K, 8 each in 12 bytes.
void UnpackK4Scales(const uint8_t* packed, uint8_t* scales, uint8_t* mins);
void PackK4Scales(const uint8_t* scales, const uint8_t* mins, uint8_t* packed);

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_FORMAT_H_
