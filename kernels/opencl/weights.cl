// weights.cl - reads packed weights, and the inputs they meet, eight consecutive columns at a time.
//
// Every kernel that touches a matrix is written once against LoadWeights(); what differs between
// layouts is decided here, by defines. A matrix row is `chunks` chunks of eight columns; the last
// one is padded. A chunk is, by STORAGE:
//   0  eight float32          1  eight bfloat16          2  eight float16
//   3  eight codes of CODE_BITS bits, column i in bits [i * CODE_BITS, (i+1) * CODE_BITS), little-endian
// With codes, w = (value(code) - zero) * scale * post_scale, where value(code) is table[code] when
// TABLE is set, else the code itself, and the scale and zero belong to the block of the element:
//   block = (row / TILE_ROWS) * blocks_per_row + col / GROUP      (GROUP 0: the whole row)
// float16 is decoded with integer operations, so no device needs cl_khr_fp16.
#ifndef STORAGE
#define STORAGE 0
#endif
#ifndef CODE_BITS
#define CODE_BITS 4  // 2, 4 or 8
#endif
#ifndef GROUP
#define GROUP 0
#endif
#ifndef TILE_ROWS
#define TILE_ROWS 1
#endif
#ifndef SCALE_STORAGE
#define SCALE_STORAGE 0  // 0: float32, 1: bfloat16, 2: float16, normal numbers only
#endif
#ifndef ZERO_STORAGE
#define ZERO_STORAGE 0  // 0: `center` for all, 1: a byte per block, 2: w = value * scale + zeros[block]
#endif
#ifndef TABLE
#define TABLE 0
#endif

float FloatFromBf16(ushort bits) { return as_float((uint)bits << 16); }
float8 Floats8FromBf16(ushort8 bits) { return as_float8(convert_uint8(bits) << 16u); }

// Subnormals are made from their integer value, so devices that flush them agree.
float FloatFromF16(ushort bits) {
  const uint magnitude = bits & 0x7fffu;
  const uint sign = ((uint)bits & 0x8000u) << 16;
  const float normal = as_float((magnitude << 13) + (112u << 23));
  const float subnormal = (float)magnitude * 5.9604644775390625e-8f;  // 2^-24
  const float special = as_float((magnitude << 13) | 0x7f800000u);
  const float value = magnitude < 0x400u ? subnormal : magnitude >= 0x7c00u ? special : normal;
  return as_float(as_uint(value) | sign);
}

// For neither zero, subnormals, infinities nor NaN.
float FloatFromNormalF16(ushort bits) {
  return as_float(((((uint)bits & 0x7fffu) << 13) + (112u << 23)) | (((uint)bits & 0x8000u) << 16));
}

float8 Floats8FromF16(ushort8 bits) {
  return (float8)(FloatFromF16(bits.s0), FloatFromF16(bits.s1), FloatFromF16(bits.s2),
                  FloatFromF16(bits.s3), FloatFromF16(bits.s4), FloatFromF16(bits.s5),
                  FloatFromF16(bits.s6), FloatFromF16(bits.s7));
}

#if STORAGE == 0
typedef float8 Chunk;
#elif STORAGE == 1 || STORAGE == 2
typedef ushort8 Chunk;
#elif CODE_BITS == 2
typedef ushort Chunk;
#elif CODE_BITS == 4
typedef uint Chunk;
#else
typedef uchar8 Chunk;
#endif

#if SCALE_STORAGE == 0
typedef float Scale;
#else
typedef ushort Scale;
#endif

#if ZERO_STORAGE == 1
typedef uchar Zero;
#else
typedef float Zero;
#endif

// The arguments that describe a matrix, in the order in which the host sets them.
#define WEIGHT_PARAMETERS                                                                   \
  __global const Chunk *chunks, __global const Scale *scales, __global const Zero *zeros,   \
      __global const float *table, const int chunks_per_row, const int blocks_per_row,      \
      const float post_scale, const float center
#define WEIGHT_ARGUMENTS                                                                    \
  chunks, scales, zeros, table, chunks_per_row, blocks_per_row, post_scale, center

float8 CodeValues(Chunk chunk, __global const float *table) {
#if STORAGE != 3
  return (float8)(0.0f);
#else
#if CODE_BITS == 2
  const int8 codes = as_int8(((uint8)(chunk) >> (uint8)(0, 2, 4, 6, 8, 10, 12, 14)) & 3u);
#elif CODE_BITS == 4
  const int8 codes = as_int8(((uint8)(chunk) >> (uint8)(0, 4, 8, 12, 16, 20, 24, 28)) & 15u);
#else
  const int8 codes = convert_int8(chunk);
#endif
#if TABLE
  return (float8)(table[codes.s0], table[codes.s1], table[codes.s2], table[codes.s3],
                  table[codes.s4], table[codes.s5], table[codes.s6], table[codes.s7]);
#else
  return convert_float8(codes);
#endif
#endif
}

float ScaleOf(__global const Scale *scales, size_t block, float post_scale) {
#if SCALE_STORAGE == 0
  return scales[block] * post_scale;
#elif SCALE_STORAGE == 1
  return FloatFromBf16(scales[block]) * post_scale;
#else
  return FloatFromNormalF16(scales[block]) * post_scale;
#endif
}

// What is added to value * scale.
float ShiftOf(__global const Zero *zeros, size_t block, float scale, float center) {
#if ZERO_STORAGE == 0
  return -center * scale;
#elif ZERO_STORAGE == 1
  return -(float)zeros[block] * scale;
#else
  return zeros[block];
#endif
}

// Columns [8 chunk, 8 chunk + 8) of row `row`. Padding columns hold finite garbage.
float8 LoadWeights(WEIGHT_PARAMETERS, int row, int chunk) {
  const size_t index = (size_t)row * chunks_per_row + chunk;
#if STORAGE == 0
  return chunks[index];
#elif STORAGE == 1
  return Floats8FromBf16(chunks[index]);
#elif STORAGE == 2
  return Floats8FromF16(chunks[index]);
#else
  const float8 values = CodeValues(chunks[index], table);
  const size_t first_block = (size_t)(row / TILE_ROWS) * blocks_per_row;
#if GROUP % 8 == 0
#if GROUP == 0
  const size_t block = first_block;
#else
  const size_t block = first_block + chunk / (GROUP / 8);
#endif
  const float scale = ScaleOf(scales, block, post_scale);
  return values * scale + ShiftOf(zeros, block, scale, center);
#else
  float scale[8];
  float shift[8];
  for (int i = 0; i < 8; ++i) {
    const size_t block = first_block + min((8 * chunk + i) / GROUP, blocks_per_row - 1);
    scale[i] = ScaleOf(scales, block, post_scale);
    shift[i] = ShiftOf(zeros, block, scale[i], center);
  }
  return values * vload8(0, scale) + vload8(0, shift);
#endif
#endif
}

// The same columns of one token's `cols` inputs; zeros where the matrix is padded.
float8 LoadInputs(__global const float *x, int chunk, int cols) {
  const int first = 8 * chunk;
  if (first + 8 <= cols) return vload8(chunk, x);
  float values[8];
  for (int i = 0; i < 8; ++i) values[i] = first + i < cols ? x[first + i] : 0.0f;
  return vload8(0, values);
}

float Sum8(float8 v) {
  const float4 pairs = v.lo + v.hi;
  return (pairs.s0 + pairs.s1) + (pairs.s2 + pairs.s3);
}
