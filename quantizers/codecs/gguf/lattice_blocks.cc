// IQ1, IQ2 and IQ3: points of small lattices with signs. In the waist every element has a code of
// its own (level and sign); the lattice only limits which codes may stand side by side, and
// encoding looks the point up again.
#include <bit>
#include <memory>

#include "quantizers/codecs/gguf/block_format.h"
#include "quantizers/grids/ggml_lattices.h"

namespace quantd::gguf {
namespace {

// From the packed levels of a point to its index; -1 where there is none.
class PointIndex {
 public:
  explicit PointIndex(std::span<const uint16_t> points) : index_(65536, -1) {
    for (size_t i = 0; i < points.size(); ++i) index_[points[i]] = static_cast<int16_t>(i);
  }
  int Find(uint32_t levels) const { return index_[levels]; }

 private:
  std::vector<int16_t> index_;
};

template <const auto& kPoints>
const PointIndex& IndexOf() {
  static const auto* const index = new PointIndex(kPoints);
  return *index;
}

// IQ2 codes are level | sign << 2, eight to a point.
void SpreadIq2(uint32_t point, uint32_t signs, uint8_t* codes) {
  for (int j = 0; j < 8; ++j) {
    codes[j] = static_cast<uint8_t>((point >> (2 * j) & 3) | (signs >> j & 1) << 2);
  }
}
void GatherIq2(const uint8_t* codes, uint32_t* point, uint32_t* signs) {
  *point = *signs = 0;
  for (int j = 0; j < 8; ++j) {
    *point |= static_cast<uint32_t>(codes[j] & 3) << (2 * j);
    *signs |= static_cast<uint32_t>(codes[j] >> 2 & 1) << j;
  }
}
// IQ3 codes are level | sign << 3; a sign byte covers two points of four.
void SpreadIq3(uint32_t point, uint32_t signs, uint8_t* codes) {
  for (int j = 0; j < 4; ++j) {
    codes[j] = static_cast<uint8_t>((point >> (3 * j) & 7) | (signs >> j & 1) << 3);
  }
}
void GatherIq3(const uint8_t* codes, uint32_t* point, uint32_t* signs) {
  *point = *signs = 0;
  for (int j = 0; j < 4; ++j) {
    *point |= static_cast<uint32_t>(codes[j] & 7) << (3 * j);
    *signs |= static_cast<uint32_t>(codes[j] >> 3 & 1) << j;
  }
}

// Seven stored sign bits; the eighth makes the number of minus signs even.
uint32_t WithParity(uint32_t bits) { return (bits & 127) | (std::popcount(bits & 127) & 1u) << 7; }
bool HasEvenParity(uint32_t signs) { return (std::popcount(signs) & 1) == 0; }

void DecodeIQ2_XXS(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int b = 0; b < 8; ++b) {
    const uint8_t* indexes = block + 2 + 8 * b;
    const uint32_t word = LoadU32(indexes + 4);
    out.scale_codes[b] = static_cast<uint8_t>(word >> 28);
    for (int l = 0; l < 4; ++l) {
      SpreadIq2(kIq2XxsPoints[indexes[l]], WithParity(word >> (7 * l)), out.codes + 32 * b + 8 * l);
    }
  }
}
bool EncodeIQ2_XXS(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  for (int b = 0; b < 8; ++b) {
    uint8_t* indexes = block + 2 + 8 * b;
    uint32_t word = static_cast<uint32_t>(in.scale_codes[b]) << 28;
    for (int l = 0; l < 4; ++l) {
      uint32_t point, signs;
      GatherIq2(in.codes + 32 * b + 8 * l, &point, &signs);
      const int index = IndexOf<kIq2XxsPoints>().Find(point);
      if (index < 0 || !HasEvenParity(signs)) return false;
      indexes[l] = static_cast<uint8_t>(index);
      word |= (signs & 127) << (7 * l);
    }
    StoreU32(word, indexes + 4);
  }
  return true;
}

void DecodeIQ2_XS(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int g = 0; g < 32; ++g) {
    const uint16_t word = LoadU16(block + 2 + 2 * g);
    SpreadIq2(kIq2XsPoints[word & 511], WithParity(word >> 9), out.codes + 8 * g);
  }
  for (int b = 0; b < 16; ++b) out.scale_codes[b] = block[66 + b / 2] >> (4 * (b % 2)) & 15;
}
bool EncodeIQ2_XS(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  for (int g = 0; g < 32; ++g) {
    uint32_t point, signs;
    GatherIq2(in.codes + 8 * g, &point, &signs);
    const int index = IndexOf<kIq2XsPoints>().Find(point);
    if (index < 0 || !HasEvenParity(signs)) return false;
    StoreU16(static_cast<uint16_t>(index | (signs & 127) << 9), block + 2 + 2 * g);
  }
  for (int b = 0; b < 8; ++b) {
    block[66 + b] =
        static_cast<uint8_t>((in.scale_codes[2 * b] & 15) | in.scale_codes[2 * b + 1] << 4);
  }
  return true;
}

void DecodeIQ2_S(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int g = 0; g < 32; ++g) {
    const uint32_t high = block[66 + g / 4] >> (2 * (g % 4)) & 3;
    SpreadIq2(kIq2SPoints[block[2 + g] | high << 8], block[34 + g], out.codes + 8 * g);
  }
  for (int b = 0; b < 16; ++b) out.scale_codes[b] = block[74 + b / 2] >> (4 * (b % 2)) & 15;
}
bool EncodeIQ2_S(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  std::memset(block + 66, 0, 8);
  for (int g = 0; g < 32; ++g) {
    uint32_t point, signs;
    GatherIq2(in.codes + 8 * g, &point, &signs);
    const int index = IndexOf<kIq2SPoints>().Find(point);
    if (index < 0) return false;
    block[2 + g] = static_cast<uint8_t>(index);
    block[34 + g] = static_cast<uint8_t>(signs);
    block[66 + g / 4] |= static_cast<uint8_t>((index >> 8) << (2 * (g % 4)));
  }
  for (int b = 0; b < 8; ++b) {
    block[74 + b] =
        static_cast<uint8_t>((in.scale_codes[2 * b] & 15) | in.scale_codes[2 * b + 1] << 4);
  }
  return true;
}

void DecodeIQ3_XXS(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int b = 0; b < 8; ++b) {
    const uint32_t word = LoadU32(block + 66 + 4 * b);
    out.scale_codes[b] = static_cast<uint8_t>(word >> 28);
    for (int k = 0; k < 8; ++k) {
      const uint32_t signs = WithParity(word >> (7 * (k / 2))) >> (4 * (k % 2));
      SpreadIq3(kIq3XxsPoints[block[2 + 8 * b + k]], signs, out.codes + 32 * b + 4 * k);
    }
  }
}
bool EncodeIQ3_XXS(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  for (int b = 0; b < 8; ++b) {
    uint32_t word = static_cast<uint32_t>(in.scale_codes[b]) << 28;
    uint32_t pair = 0;
    for (int k = 0; k < 8; ++k) {
      uint32_t point, signs;
      GatherIq3(in.codes + 32 * b + 4 * k, &point, &signs);
      const int index = IndexOf<kIq3XxsPoints>().Find(point);
      if (index < 0) return false;
      block[2 + 8 * b + k] = static_cast<uint8_t>(index);
      pair = k % 2 == 0 ? signs : pair | signs << 4;
      if (k % 2 == 0) continue;
      if (!HasEvenParity(pair)) return false;
      word |= (pair & 127) << (7 * (k / 2));
    }
    StoreU32(word, block + 66 + 4 * b);
  }
  return true;
}

void DecodeIQ3_S(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int b = 0; b < 8; ++b) {
    out.scale_codes[b] = block[106 + b / 2] >> (4 * (b % 2)) & 15;
    for (int k = 0; k < 8; ++k) {
      const uint32_t index = block[2 + 8 * b + k] | (block[66 + b] >> k & 1u) << 8;
      const uint32_t signs = block[74 + 4 * b + k / 2] >> (4 * (k % 2));
      SpreadIq3(kIq3SPoints[index], signs, out.codes + 32 * b + 4 * k);
    }
  }
}
bool EncodeIQ3_S(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  std::memset(block + 66, 0, 44);
  for (int b = 0; b < 8; ++b) {
    block[106 + b / 2] |= static_cast<uint8_t>((in.scale_codes[b] & 15) << (4 * (b % 2)));
    for (int k = 0; k < 8; ++k) {
      uint32_t point, signs;
      GatherIq3(in.codes + 32 * b + 4 * k, &point, &signs);
      const int index = IndexOf<kIq3SPoints>().Find(point);
      if (index < 0) return false;
      block[2 + 8 * b + k] = static_cast<uint8_t>(index);
      block[66 + b] |= static_cast<uint8_t>((index >> 8) << k);
      block[74 + 4 * b + k / 2] |= static_cast<uint8_t>(signs << (4 * (k % 2)));
    }
  }
  return true;
}

// IQ1 codes are trit | (delta is negative) << 2: the shift of a group is part of its elements'
// values.
void SpreadIq1(uint32_t point, bool negative, uint8_t* codes) {
  for (int j = 0; j < 8; ++j) {
    codes[j] = static_cast<uint8_t>((point >> (2 * j) & 3) | (negative ? 4 : 0));
  }
}
// Index of the point, or -1 when the eight codes do not share a shift or are no point.
int GatherIq1(const uint8_t* codes, bool* negative) {
  uint32_t point = 0;
  *negative = (codes[0] & 4) != 0;
  for (int j = 0; j < 8; ++j) {
    if (((codes[j] & 4) != 0) != *negative) return -1;
    point |= static_cast<uint32_t>(codes[j] & 3) << (2 * j);
  }
  return IndexOf<kIq1Points>().Find(point);
}

void DecodeIQ1_S(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  for (int b = 0; b < 8; ++b) {
    const uint32_t word = LoadU16(block + 34 + 2 * b);
    out.scale_codes[b] = word >> 12 & 7;
    for (int l = 0; l < 4; ++l) {
      const uint32_t index = block[2 + 4 * b + l] | (word >> (3 * l) & 7) << 8;
      SpreadIq1(kIq1Points[index], (word & 0x8000) != 0, out.codes + 32 * b + 8 * l);
    }
  }
}
bool EncodeIQ1_S(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  for (int b = 0; b < 8; ++b) {
    const bool shift = (in.codes[32 * b] & 4) != 0;
    uint32_t word = static_cast<uint32_t>(in.scale_codes[b] & 7) << 12 | (shift ? 0x8000u : 0u);
    for (int l = 0; l < 4; ++l) {
      bool negative;
      const int index = GatherIq1(in.codes + 32 * b + 8 * l, &negative);
      if (index < 0 || negative != shift) return false;
      block[2 + 4 * b + l] = static_cast<uint8_t>(index);
      word |= static_cast<uint32_t>(index >> 8) << (3 * l);
    }
    StoreU16(static_cast<uint16_t>(word), block + 34 + 2 * b);
  }
  return true;
}

// qs[32], qh[16], scales[8]: d is spread over the top nibbles of the four scale words.
void DecodeIQ1_M(const uint8_t* block, const Parts& out) {
  uint16_t d = 0;
  for (int i = 0; i < 4; ++i) {
    d = static_cast<uint16_t>(d | LoadU16(block + 48 + 2 * i) >> 12 << (4 * i));
  }
  *out.scale = FloatFromF16(d);
  for (int b = 0; b < 16; ++b) {
    out.scale_codes[b] = LoadU16(block + 48 + 2 * (b / 4)) >> (3 * (b % 4)) & 7;
  }
  for (int g = 0; g < 32; ++g) {
    const uint32_t nibble = block[32 + g / 2] >> (4 * (g % 2)) & 15;
    SpreadIq1(kIq1Points[block[g] | (nibble & 7) << 8], (nibble & 8) != 0, out.codes + 8 * g);
  }
}
bool EncodeIQ1_M(const ConstParts& in, uint8_t* block) {
  const uint16_t d = F16FromFloat(*in.scale);
  for (int i = 0; i < 4; ++i) {
    uint32_t word = static_cast<uint32_t>(d >> (4 * i) & 15) << 12;
    for (int k = 0; k < 4; ++k) word |= (in.scale_codes[4 * i + k] & 7u) << (3 * k);
    StoreU16(static_cast<uint16_t>(word), block + 48 + 2 * i);
  }
  std::memset(block + 32, 0, 16);
  for (int g = 0; g < 32; ++g) {
    bool negative;
    const int index = GatherIq1(in.codes + 8 * g, &negative);
    if (index < 0) return false;
    block[g] = static_cast<uint8_t>(index);
    block[32 + g / 2] |= static_cast<uint8_t>((index >> 8 | (negative ? 8 : 0)) << (4 * (g % 2)));
  }
  return true;
}

Grid Iq2Grid() { return TableGrid(3, {8, 25, 43, 0, -8, -25, -43, 0}); }
Grid Iq3XxsGrid() {
  return TableGrid(4, {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62});
}
Grid Iq3SGrid() {
  return TableGrid(4, {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15});
}
Grid Iq1Grid() { return TableGrid(3, {-0.875f, 0.125f, 1.125f, 0, -1.125f, -0.125f, 0.875f, 0}); }

// (first + step * code) for every scale code.
const float* LinearScales(float first, float step) {
  auto* const values = new float[16];
  for (int i = 0; i < 16; ++i) values[i] = first + step * static_cast<float>(i);
  return values;
}

}  // namespace

std::span<const BlockFormat> LatticeBlockFormats() {
  using T = GgmlType;
  static const float* const quarter = LinearScales(0.125f, 0.25f);
  static const float* const half = LinearScales(0.25f, 0.5f);
  static const float* const odd = LinearScales(1, 2);
  constexpr DType kF16 = DType::kF16;
  static const BlockFormat formats[] = {
      {T::kIQ2_XXS, "IQ2_XXS", 256, 66, 32, true, false, kF16, quarter, 16, Iq2Grid, DecodeIQ2_XXS,
       EncodeIQ2_XXS},
      {T::kIQ2_XS, "IQ2_XS", 256, 74, 16, true, false, kF16, quarter, 16, Iq2Grid, DecodeIQ2_XS,
       EncodeIQ2_XS},
      {T::kIQ2_S, "IQ2_S", 256, 82, 16, true, false, kF16, quarter, 16, Iq2Grid, DecodeIQ2_S,
       EncodeIQ2_S},
      {T::kIQ3_XXS, "IQ3_XXS", 256, 98, 32, true, false, kF16, half, 16, Iq3XxsGrid, DecodeIQ3_XXS,
       EncodeIQ3_XXS},
      {T::kIQ3_S, "IQ3_S", 256, 110, 32, true, false, kF16, odd, 16, Iq3SGrid, DecodeIQ3_S,
       EncodeIQ3_S},
      {T::kIQ1_S, "IQ1_S", 256, 50, 32, true, false, kF16, odd, 8, Iq1Grid, DecodeIQ1_S,
       EncodeIQ1_S},
      {T::kIQ1_M, "IQ1_M", 256, 56, 16, true, false, kF16, odd, 8, Iq1Grid, DecodeIQ1_M,
       EncodeIQ1_M},
  };
  return formats;
}

}  // namespace quantd::gguf
