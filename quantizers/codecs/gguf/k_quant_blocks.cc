// Super-blocks of 256 with quantized scales: Q2_K ... Q6_K and IQ4_XS.
#include "quantizers/codecs/gguf/block_format.h"
#include "quantizers/grids/ggml_lattices.h"

namespace quantd::gguf {

void UnpackK4Scales(const uint8_t* packed, uint8_t* scales, uint8_t* mins) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = packed[j] & 63;
    mins[j] = packed[j + 4] & 63;
    scales[j + 4] = static_cast<uint8_t>((packed[j + 8] & 15) | packed[j] >> 6 << 4);
    mins[j + 4] = static_cast<uint8_t>(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
  }
}

void PackK4Scales(const uint8_t* scales, const uint8_t* mins, uint8_t* packed) {
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>((scales[j] & 63) | scales[j + 4] >> 4 << 6);
    packed[j + 4] = static_cast<uint8_t>((mins[j] & 63) | mins[j + 4] >> 4 << 6);
    packed[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | mins[j + 4] << 4);
  }
}

namespace {

// Two-bit fields: element 128h + 32l + m is field l of byte 32h + m.
void UnpackPairs(const uint8_t* packed, uint8_t* codes) {
  for (int h = 0; h < 2; ++h) {
    for (int l = 0; l < 4; ++l) {
      for (int m = 0; m < 32; ++m) {
        codes[128 * h + 32 * l + m] = packed[32 * h + m] >> (2 * l) & 3;
      }
    }
  }
}
void PackPairs(const uint8_t* codes, uint8_t* packed) {
  for (int h = 0; h < 2; ++h) {
    const uint8_t* c = codes + 128 * h;
    for (int m = 0; m < 32; ++m) {
      packed[32 * h + m] = static_cast<uint8_t>((c[m] & 3) | (c[m + 32] & 3) << 2 |
                                                (c[m + 64] & 3) << 4 | (c[m + 96] & 3) << 6);
    }
  }
}

void DecodeQ2_K(const uint8_t* block, const Parts& out) {
  for (int b = 0; b < 16; ++b) {
    out.scale_codes[b] = block[b] & 15;
    out.offset_codes[b] = block[b] >> 4;
  }
  UnpackPairs(block + 16, out.codes);
  *out.scale = LoadF16(block + 80);
  *out.offset = LoadF16(block + 82);
}
bool EncodeQ2_K(const ConstParts& in, uint8_t* block) {
  for (int b = 0; b < 16; ++b) {
    block[b] = static_cast<uint8_t>((in.scale_codes[b] & 15) | in.offset_codes[b] << 4);
  }
  PackPairs(in.codes, block + 16);
  StoreF16(*in.scale, block + 80);
  StoreF16(*in.offset, block + 82);
  return true;
}

// hmask[32], qs[64], scales[12], d. The third bit of a code lies in hmask.
void DecodeQ3_K(const uint8_t* block, const Parts& out) {
  UnpackPairs(block + 32, out.codes);
  for (int j = 0; j < 256; ++j) {
    out.codes[j] |= static_cast<uint8_t>((block[j % 32] >> (j / 32) & 1) << 2);
  }
  const uint8_t* s = block + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    out.scale_codes[j] = static_cast<uint8_t>(low | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4);
  }
  *out.scale = LoadF16(block + 108);
}
bool EncodeQ3_K(const ConstParts& in, uint8_t* block) {
  std::memset(block, 0, 32);
  for (int j = 0; j < 256; ++j) {
    block[j % 32] |= static_cast<uint8_t>((in.codes[j] >> 2 & 1) << (j / 32));
  }
  PackPairs(in.codes, block + 32);
  uint8_t* s = block + 96;
  std::memset(s, 0, 12);
  for (int j = 0; j < 16; ++j) {
    const uint8_t code = in.scale_codes[j];
    s[j % 8] |= static_cast<uint8_t>((code & 15) << (j < 8 ? 0 : 4));
    s[8 + j % 4] |= static_cast<uint8_t>((code >> 4 & 3) << (2 * (j / 4)));
  }
  StoreF16(*in.scale, block + 108);
  return true;
}

// d, dmin, scales[12], [qh[32]], qs[128]: chunks of 64 elements in 32 bytes.
template <bool kFifthBit>
void DecodeQ45_K(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  *out.offset = LoadF16(block + 2);
  UnpackK4Scales(block + 4, out.scale_codes, out.offset_codes);
  const uint8_t* high = block + 16;
  const uint8_t* low = block + (kFifthBit ? 48 : 16);
  for (int c = 0; c < 4; ++c) {
    uint8_t* codes = out.codes + 64 * c;
    for (int l = 0; l < 32; ++l) {
      codes[l] = low[32 * c + l] & 15;
      codes[l + 32] = low[32 * c + l] >> 4;
      if (!kFifthBit) continue;
      codes[l] |= static_cast<uint8_t>((high[l] >> (2 * c) & 1) << 4);
      codes[l + 32] |= static_cast<uint8_t>((high[l] >> (2 * c + 1) & 1) << 4);
    }
  }
}
template <bool kFifthBit>
bool EncodeQ45_K(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  StoreF16(*in.offset, block + 2);
  PackK4Scales(in.scale_codes, in.offset_codes, block + 4);
  uint8_t* high = block + 16;
  uint8_t* low = block + (kFifthBit ? 48 : 16);
  if (kFifthBit) std::memset(high, 0, 32);
  for (int c = 0; c < 4; ++c) {
    const uint8_t* codes = in.codes + 64 * c;
    for (int l = 0; l < 32; ++l) {
      low[32 * c + l] = static_cast<uint8_t>((codes[l] & 15) | codes[l + 32] << 4);
      if (!kFifthBit) continue;
      high[l] |= static_cast<uint8_t>((codes[l] >> 4 & 1) << (2 * c) | (codes[l + 32] >> 4 & 1)
                                                                           << (2 * c + 1));
    }
  }
  return true;
}

// ql[128], qh[64], scales[16], d: four elements 32 apart share a byte of qh.
void DecodeQ6_K(const uint8_t* block, const Parts& out) {
  for (int h = 0; h < 2; ++h) {
    const uint8_t* ql = block + 64 * h;
    const uint8_t* qh = block + 128 + 32 * h;
    uint8_t* codes = out.codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<uint8_t>((ql[l] & 15) | (qh[l] & 3) << 4);
      codes[l + 32] = static_cast<uint8_t>((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4);
      codes[l + 64] = static_cast<uint8_t>(ql[l] >> 4 | (qh[l] >> 4 & 3) << 4);
      codes[l + 96] = static_cast<uint8_t>(ql[l + 32] >> 4 | (qh[l] >> 6) << 4);
    }
  }
  std::memcpy(out.scale_codes, block + 192, 16);
  *out.scale = LoadF16(block + 208);
}
bool EncodeQ6_K(const ConstParts& in, uint8_t* block) {
  for (int h = 0; h < 2; ++h) {
    uint8_t* ql = block + 64 * h;
    uint8_t* qh = block + 128 + 32 * h;
    const uint8_t* c = in.codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      ql[l] = static_cast<uint8_t>((c[l] & 15) | c[l + 64] << 4);
      ql[l + 32] = static_cast<uint8_t>((c[l + 32] & 15) | c[l + 96] << 4);
      qh[l] = static_cast<uint8_t>(c[l] >> 4 | (c[l + 32] >> 4) << 2 | (c[l + 64] >> 4) << 4 |
                                   (c[l + 96] >> 4) << 6);
    }
  }
  std::memcpy(block + 192, in.scale_codes, 16);
  StoreF16(*in.scale, block + 208);
  return true;
}

// d, scales_h, scales_l[4], qs[128].
void DecodeIQ4_XS(const uint8_t* block, const Parts& out) {
  *out.scale = LoadF16(block);
  const uint16_t high = LoadU16(block + 2);
  for (int b = 0; b < 8; ++b) {
    out.scale_codes[b] =
        static_cast<uint8_t>((block[4 + b / 2] >> (4 * (b % 2)) & 15) | (high >> (2 * b) & 3) << 4);
    for (int j = 0; j < 16; ++j) {
      out.codes[32 * b + j] = block[8 + 16 * b + j] & 15;
      out.codes[32 * b + 16 + j] = block[8 + 16 * b + j] >> 4;
    }
  }
}
bool EncodeIQ4_XS(const ConstParts& in, uint8_t* block) {
  StoreF16(*in.scale, block);
  std::memset(block + 4, 0, 4);
  uint16_t high = 0;
  for (int b = 0; b < 8; ++b) {
    block[4 + b / 2] |= static_cast<uint8_t>((in.scale_codes[b] & 15) << (4 * (b % 2)));
    high = static_cast<uint16_t>(high | (in.scale_codes[b] >> 4 & 3) << (2 * b));
    for (int j = 0; j < 16; ++j) {
      block[8 + 16 * b + j] =
          static_cast<uint8_t>((in.codes[32 * b + j] & 15) | in.codes[32 * b + 16 + j] << 4);
    }
  }
  StoreU16(high, block + 2);
  return true;
}

// Signed scale codes: six bits with 32 subtracted, or int8.
const float* SignedScales(int count, int bias) {
  auto* const values = new float[count];
  for (int i = 0; i < count; ++i) {
    values[i] = static_cast<float>(bias != 0 ? i - bias : static_cast<int8_t>(i));
  }
  return values;
}

template <int kBits, int kFirst>
Grid Uniform() {
  Grid grid;
  grid.bits = kBits;
  grid.first = kFirst;
  return grid;
}
Grid Iq4Grid() { return TableGrid(4, {std::begin(kIq4NlValues), std::end(kIq4NlValues)}); }

}  // namespace

std::span<const BlockFormat> KQuantBlockFormats() {
  using T = GgmlType;
  static const float* const six_bits = SignedScales(64, 32);
  static const float* const int8 = SignedScales(256, 0);
  constexpr DType kF16 = DType::kF16;
  static const BlockFormat formats[] = {
      {T::kQ2_K, "Q2_K", 256, 84, 16, true, true, kF16, nullptr, 16, Uniform<2, 0>, DecodeQ2_K,
       EncodeQ2_K},
      {T::kQ3_K, "Q3_K", 256, 110, 16, true, false, kF16, six_bits, 64, Uniform<3, -4>, DecodeQ3_K,
       EncodeQ3_K},
      {T::kQ4_K, "Q4_K", 256, 144, 32, true, true, kF16, nullptr, 64, Uniform<4, 0>,
       DecodeQ45_K<false>, EncodeQ45_K<false>},
      {T::kQ5_K, "Q5_K", 256, 176, 32, true, true, kF16, nullptr, 64, Uniform<5, 0>,
       DecodeQ45_K<true>, EncodeQ45_K<true>},
      {T::kQ6_K, "Q6_K", 256, 210, 16, true, false, kF16, int8, 256, Uniform<6, -32>, DecodeQ6_K,
       EncodeQ6_K},
      {T::kIQ4_XS, "IQ4_XS", 256, 136, 32, true, false, kF16, six_bits, 64, Iq4Grid, DecodeIQ4_XS,
       EncodeIQ4_XS},
  };
  return formats;
}

}  // namespace quantd::gguf
