// Block types with one scale for all elements of a block.
#include <bit>
#include <cmath>

#include "quantizers/codecs/gguf/block_format.h"
#include "quantizers/grids/ggml_lattices.h"

namespace quantd::gguf {
namespace {

// Nibble codes: element j in the low, element j + 16 in the high half of byte j.
void UnpackNibbles(const uint8_t* packed, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = packed[j] & 15;
    codes[j + 16] = packed[j] >> 4;
  }
}
void PackNibbles(const uint8_t* codes, uint8_t* packed) {
  for (int j = 0; j < 16; ++j) {
    packed[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + 16] << 4);
  }
}

// d, [m], [qh], qs of Q4_0, Q4_1, Q5_0, Q5_1.
template <bool kOffset, bool kFifthBit>
void DecodeLegacy(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  if (kOffset) *out.offset = LoadF16(block + 2);
  const uint8_t* data = block + (kOffset ? 4 : 2);
  UnpackNibbles(data + (kFifthBit ? 4 : 0), out.codes);
  if (!kFifthBit) return;
  const uint32_t high = LoadU32(data);
  for (int j = 0; j < 32; ++j) out.codes[j] |= static_cast<uint8_t>((high >> j & 1) << 4);
}

template <bool kOffset, bool kFifthBit>
bool EncodeLegacy(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  if (kOffset) StoreF16(*in.offset, block + 2);
  uint8_t* data = block + (kOffset ? 4 : 2);
  PackNibbles(in.codes, data + (kFifthBit ? 4 : 0));
  if (!kFifthBit) return true;
  uint32_t high = 0;
  for (int j = 0; j < 32; ++j) high |= static_cast<uint32_t>(in.codes[j] >> 4 & 1) << j;
  StoreU32(high, data);
  return true;
}

void DecodeQ8_0(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int j = 0; j < 32; ++j) out.codes[j] = block[2 + j] ^ 0x80;
}
bool EncodeQ8_0(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  for (int j = 0; j < 32; ++j) block[2 + j] = in.codes[j] ^ 0x80;
  return true;
}

// Q1_0 and Q2_0: consecutive fields of `kBits`, lowest bits first.
template <int kBits, int kElements>
void DecodeFields(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  constexpr int kPerByte = 8 / kBits;
  for (int j = 0; j < kElements; ++j) {
    out.codes[j] = block[2 + j / kPerByte] >> (j % kPerByte * kBits) & ((1 << kBits) - 1);
  }
}
template <int kBits, int kElements>
bool EncodeFields(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  constexpr int kPerByte = 8 / kBits;
  std::memset(block + 2, 0, kElements / kPerByte);
  for (int j = 0; j < kElements; ++j) {
    block[2 + j / kPerByte] |= static_cast<uint8_t>(in.codes[j] << (j % kPerByte * kBits));
  }
  return true;
}

// TQ1_0 holds digits of base 3 as a fraction of 256: digit n of a byte is the top of byte * 3^n
// * 3.
constexpr int kPowersOf3[5] = {1, 3, 9, 27, 81};
void DecodeTrits(const uint8_t* bytes, int count, int digits, uint8_t* codes) {
  for (int n = 0; n < digits; ++n) {
    for (int m = 0; m < count; ++m) {
      const uint8_t shifted = static_cast<uint8_t>(bytes[m] * kPowersOf3[n]);
      codes[n * count + m] = static_cast<uint8_t>(shifted * 3 >> 8);
    }
  }
}
bool EncodeTrits(const uint8_t* codes, int count, int digits, uint8_t* bytes) {
  for (int m = 0; m < count; ++m) {
    int value = 0;
    for (int n = 0; n < digits; ++n) {
      const uint8_t code = codes[n * count + m];
      if (code > 2) return false;
      value += code * kPowersOf3[4 - n];
    }
    bytes[m] = static_cast<uint8_t>((value * 256 + 242) / 243);
  }
  return true;
}
void DecodeTQ1_0(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block + 52);
  DecodeTrits(block, 32, 5, out.codes);
  DecodeTrits(block + 32, 16, 5, out.codes + 160);
  DecodeTrits(block + 48, 4, 4, out.codes + 240);
}
bool EncodeTQ1_0(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block + 52);
  return EncodeTrits(in.codes, 32, 5, block) && EncodeTrits(in.codes + 160, 16, 5, block + 32) &&
         EncodeTrits(in.codes + 240, 4, 4, block + 48);
}

void DecodeTQ2_0(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block + 64);
  for (int j = 0; j < 256; ++j) {
    out.codes[j] = block[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3;
  }
}
bool EncodeTQ2_0(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block + 64);
  std::memset(block, 0, 64);
  for (int j = 0; j < 256; ++j) {
    block[j / 128 * 32 + j % 32] |= static_cast<uint8_t>(in.codes[j] << (j / 32 % 4 * 2));
  }
  return true;
}

void DecodeIQ4_NL(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  UnpackNibbles(block + 2, out.codes);
}
bool EncodeIQ4_NL(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  PackNibbles(in.codes, block + 2);
  return true;
}

// The scale is half of the E8M0 number, because the values are doubled.
float HalfE8M0(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}
void DecodeMXFP4(const uint8_t* block, const Parts& out) {
  *out.scale = HalfE8M0(block[0]);
  UnpackNibbles(block + 1, out.codes);
}
bool EncodeMXFP4(const ConstParts& in, uint8_t* block) {
  const uint32_t bits = std::bit_cast<uint32_t>(*in.scale);
  const uint32_t e = bits < 0x00800000u ? (bits == 0x00400000u ? 1 : 0) : (bits >> 23) + 1;
  block[0] = static_cast<uint8_t>(e);
  PackNibbles(in.codes, block + 1);
  return HalfE8M0(block[0]) == *in.scale;
}

// Halves of the unsigned E4M3 numbers; the sign bit is not looked at, and 0x7f stands for zero.
const float* Ue4m3Halves() {
  static const auto* const table = [] {
    auto* values = new float[256];
    for (int x = 0; x < 256; ++x) {
      const int exponent = x >> 3 & 15;
      const int mantissa = x & 7;
      const float magnitude =
          exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                        : std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
      values[x] = (x & 0x7f) == 0x7f ? 0.0f : 0.5f * magnitude;
    }
    return values;
  }();
  return table;
}
void DecodeNVFP4(const uint8_t* block, const Parts& out) {
  *out.scale = 1;
  std::memcpy(out.scale_codes, block, 4);
  for (int s = 0; s < 4; ++s) {
    for (int j = 0; j < 8; ++j) {
      const uint8_t byte = block[4 + 8 * s + j];
      out.codes[16 * s + j] = byte & 15;
      out.codes[16 * s + 8 + j] = byte >> 4;
    }
  }
}
bool EncodeNVFP4(const ConstParts& in, uint8_t* block) {
  std::memcpy(block, in.scale_codes, 4);
  for (int s = 0; s < 4; ++s) {
    for (int j = 0; j < 8; ++j) {
      block[4 + 8 * s + j] =
          static_cast<uint8_t>((in.codes[16 * s + j] & 15) | in.codes[16 * s + 8 + j] << 4);
    }
  }
  return *in.scale == 1;
}

template <int kBits, int kFirst>
Grid Uniform() {
  Grid grid;
  grid.bits = kBits;
  grid.first = kFirst;
  return grid;
}
Grid SignGrid() { return TableGrid(1, {-1.0f, 1.0f}); }
Grid Iq4Grid() { return TableGrid(4, {std::begin(kIq4NlValues), std::end(kIq4NlValues)}); }
Grid Fp4Grid() {
  return TableGrid(4, {std::begin(kDoubledE2M1Values), std::end(kDoubledE2M1Values)});
}

BlockFormat Plain(GgmlType type, absl::string_view name, int elements, int bytes, Grid (*grid)(),
                  void (*decode)(const uint8_t*, const Parts&),
                  bool (*encode)(const ConstParts&, uint8_t*)) {
  return {type,
          name,
          elements,
          bytes,
          elements,
          /*nested=*/false,
          /*has_offset=*/false,
          DType::kF16,
          nullptr,
          0,
          grid,
          decode,
          encode};
}

}  // namespace

std::span<const BlockFormat> SimpleBlockFormats() {
  using T = GgmlType;
  static const auto* const formats = [] {
    auto* rows = new std::vector<BlockFormat>{
        Plain(T::kQ4_0, "Q4_0", 32, 18, Uniform<4, -8>, DecodeLegacy<false, false>,
              EncodeLegacy<false, false>),
        Plain(T::kQ4_1, "Q4_1", 32, 20, Uniform<4, 0>, DecodeLegacy<true, false>,
              EncodeLegacy<true, false>),
        Plain(T::kQ5_0, "Q5_0", 32, 22, Uniform<5, -16>, DecodeLegacy<false, true>,
              EncodeLegacy<false, true>),
        Plain(T::kQ5_1, "Q5_1", 32, 24, Uniform<5, 0>, DecodeLegacy<true, true>,
              EncodeLegacy<true, true>),
        Plain(T::kQ8_0, "Q8_0", 32, 34, Uniform<8, -128>, DecodeQ8_0, EncodeQ8_0),
        Plain(T::kQ1_0, "Q1_0", 128, 18, SignGrid, DecodeFields<1, 128>, EncodeFields<1, 128>),
        Plain(T::kQ2_0, "Q2_0", 64, 18, Uniform<2, -1>, DecodeFields<2, 64>, EncodeFields<2, 64>),
        Plain(T::kTQ1_0, "TQ1_0", 256, 54, Uniform<2, -1>, DecodeTQ1_0, EncodeTQ1_0),
        Plain(T::kTQ2_0, "TQ2_0", 256, 66, Uniform<2, -1>, DecodeTQ2_0, EncodeTQ2_0),
        Plain(T::kIQ4_NL, "IQ4_NL", 32, 18, Iq4Grid, DecodeIQ4_NL, EncodeIQ4_NL),
        Plain(T::kMXFP4, "MXFP4", 32, 17, Fp4Grid, DecodeMXFP4, EncodeMXFP4),
        Plain(T::kNVFP4, "NVFP4", 64, 36, Fp4Grid, DecodeNVFP4, EncodeNVFP4),
    };
    for (BlockFormat& row : *rows) {
      row.has_offset = row.type == T::kQ4_1 || row.type == T::kQ5_1;
      row.many_spellings = row.type == T::kTQ1_0;
      if (row.type == T::kMXFP4) row.scale_dtype = DType::kF8E8M0;
    }
    BlockFormat& nvfp4 = rows->back();
    nvfp4.scale_block = 16;
    nvfp4.nested = true;
    nvfp4.scale_dtype = DType::kF8E4M3;
    nvfp4.scale_table = Ue4m3Halves();
    nvfp4.scale_codes = 256;
    return rows;
  }();
  return *formats;
}

}  // namespace quantd::gguf
