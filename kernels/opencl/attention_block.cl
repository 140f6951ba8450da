// attention_block.cl - out = softmax(q k^T) v on CPU devices; same operands and layout of the cache as
// Attend in attention.cl.
//
// As in linear_block.cl a work-item is a thread's whole task: LANES (row, head) pairs of one key/value
// head, over tiles of KEYS keys with online softmax. Vectors run along the keys in q k^T, which the
// transposed keys allow, and along the dimensions in the product with the values.
// Grid: [ceil(rows * heads / kv_heads / LANES), kv_heads], groups of one.
#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef LANES
#define LANES 4
#endif
#define KEYS 64
#define VECTORS ((HEAD_DIM + 7) / 8)  // of eight dimensions; the last may be partial

// scores[l] = q_l . key for keys [0, KEYS) of the tile; `keys` points at its first key. Keys behind
// the last one written are garbage that the caller masks; `capacity` is a multiple of eight, so a
// vector that starts at a valid key stays inside of the cache.
void ScoreTile(const float *queries, __global const float *keys, int count, int capacity,
               float *scores) {
  for (int key = 0; key < count; key += 8) {
    float8 dots[LANES];
#pragma unroll
    for (int l = 0; l < LANES; ++l) dots[l] = (float8)(0.0f);
    for (int dim = 0; dim < HEAD_DIM; ++dim) {
      const float8 k = vload8(0, keys + (size_t)dim * capacity + key);
#pragma unroll
      for (int l = 0; l < LANES; ++l) dots[l] += queries[l * HEAD_DIM + dim] * k;
    }
#pragma unroll
    for (int l = 0; l < LANES; ++l) vstore8(dots[l], 0, scores + l * KEYS + key);
  }
}

// Replaces `count` scores by exp(score - new maximum), behind them zeros up to a multiple of eight;
// returns the factor for what was summed before, exp(old maximum - new maximum).
float SoftmaxTile(float *scores, int count, float *maximum, float *sum) {
  float largest = *maximum;
  for (int j = 0; j < count; ++j) largest = fmax(largest, scores[j]);
  for (int j = count; j < (count + 7) / 8 * 8; ++j) scores[j] = -INFINITY;
  float8 total = (float8)(0.0f);
  for (int j = 0; j < (count + 7) / 8; ++j) {
    const float8 weights = exp(vload8(j, scores) - largest);
    vstore8(weights, j, scores);
    total += weights;
  }
  const float correction = exp(*maximum - largest);
  const float4 pairs = total.lo + total.hi;
  *sum = *sum * correction + (pairs.s0 + pairs.s1) + (pairs.s2 + pairs.s3);
  *maximum = largest;
  return correction;
}

float8 LoadValues(__global const float *values, int vector) {
#if HEAD_DIM % 8 != 0
  if (vector == VECTORS - 1) {
    float tail[8];
    for (int i = 0; i < 8; ++i) tail[i] = 8 * vector + i < HEAD_DIM ? values[8 * vector + i] : 0.0f;
    return vload8(0, tail);
  }
#endif
  return vload8(vector, values);
}

// sums[l] = sums[l] * correction[l] + scores[l] . values of the tile's `count` keys.
void WeighTile(const float *scores, const float *correction, __global const float *values,
               int count, float8 *sums) {
  for (int v = 0; v < VECTORS; ++v) {
    float8 block[LANES];
#pragma unroll
    for (int l = 0; l < LANES; ++l) block[l] = sums[l * VECTORS + v] * correction[l];
    for (int j = 0; j < count; ++j) {
      const float8 value = LoadValues(values + (size_t)j * HEAD_DIM, v);
#pragma unroll
      for (int l = 0; l < LANES; ++l) block[l] += scores[l * KEYS + j] * value;
    }
#pragma unroll
    for (int l = 0; l < LANES; ++l) sums[l * VECTORS + v] = block[l];
  }
}

void StoreHead(const float8 *sums, float scale, __global float *out) {
  for (int v = 0; v < VECTORS; ++v) {
    float values[8];
    vstore8(sums[v] * scale, 0, values);
    for (int i = 0; i < 8 && 8 * v + i < HEAD_DIM; ++i) out[8 * v + i] = values[i];
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void AttendBlock(__global const float *q, __global const float *keys,
                 __global const float *values, __global float *out, const int first_row,
                 const int rows, const int heads, const int kv_heads, const int position,
                 const int capacity, const int causal) {
  const int kv_head = get_group_id(1);
  const int ratio = heads / kv_heads;
  const int first_lane = get_group_id(0) * LANES;
  const int last_lane = rows * ratio - 1;
  keys += (size_t)kv_head * HEAD_DIM * capacity;
  values += (size_t)kv_head * HEAD_DIM * capacity;
  float queries[LANES * HEAD_DIM];
  float scores[LANES * KEYS];
  float8 sums[LANES * VECTORS];
  float maximum[LANES];
  float sum[LANES];
  int limits[LANES];  // keys that a lane sees; grows with the lane
  for (int l = 0; l < LANES; ++l) {
    const int lane = min(first_lane + l, last_lane);
    const size_t head = (size_t)(lane / ratio) * heads + kv_head * ratio + lane % ratio;
    for (int dim = 0; dim < HEAD_DIM; ++dim) {
      queries[l * HEAD_DIM + dim] = q[head * HEAD_DIM + dim];
    }
    for (int v = 0; v < VECTORS; ++v) sums[l * VECTORS + v] = (float8)(0.0f);
    maximum[l] = -INFINITY;
    sum[l] = 0.0f;
    limits[l] = position + (causal ? lane / ratio + 1 : rows);
  }

  const int end = limits[LANES - 1];
  for (int first = 0; first < end; first += KEYS) {
    const int count = min(KEYS, end - first);
    float correction[LANES];
    ScoreTile(queries, keys + first, count, capacity, scores);
    for (int l = 0; l < LANES; ++l) {
      for (int j = max(limits[l] - first, 0); j < count; ++j) scores[l * KEYS + j] = -INFINITY;
      correction[l] = SoftmaxTile(scores + l * KEYS, count, &maximum[l], &sum[l]);
    }
    WeighTile(scores, correction, values + (size_t)first * HEAD_DIM, count, sums);
  }

  for (int l = 0; l < LANES && first_lane + l <= last_lane; ++l) {
    const size_t row = first_row + (first_lane + l) / ratio;
    const int head = kv_head * ratio + (first_lane + l) % ratio;
    StoreHead(sums + l * VECTORS, 1.0f / sum[l], out + (row * heads + head) * HEAD_DIM);
  }
}
