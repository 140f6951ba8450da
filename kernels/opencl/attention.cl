// attention.cl - rotary embedding, the key/value cache, and softmax(q k^T) v with grouped heads.
//
// Layout of one layer of a cache (float32), chosen so that neighbouring work-items read neighbouring
// addresses in both halves of attention:
//   keys   [kv_heads, HEAD_DIM, capacity]   (transposed: a work-item per key)
//   values [kv_heads, capacity, HEAD_DIM]   (a work-item per dimension)
// `capacity` is a multiple of eight. Both functions handle the rows of one sequence.
#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef WG
#define WG 64  // work-items per group = keys per tile; a power of two
#endif
#ifndef LANES
#define LANES 8  // (row, head) pairs per group that share a key/value head; a power of two <= WG
#endif

// With QK_NORM norms the heads of q and k by their `factors` (norm.cl). Rotates them to their positions
// (rotate-half form over the first `rotary` dimensions), scales q, and stores q [rows, heads * HEAD_DIM]
// and the cache entries position, position + 1, ...
// The sequence starts at row `first_row` of `qkv`. Grid: [HEAD_DIM, heads + 2 kv_heads, rows].
__kernel void StoreQkv(__global const float *qkv, __global const float *rope, __global float *q,
                       __global float *keys, __global float *values, const int first_row,
                       const int heads, const int kv_heads, const int rotary, const int position,
                       const int capacity, const float scale, __global const float *factors,
                       __global const float *q_norm, __global const float *k_norm) {
  const int dim = get_global_id(0);
  const int head = get_global_id(1);
  const int row = get_global_id(2);
  const int all_heads = heads + 2 * kv_heads;
  __global const float *source =
      qkv + ((size_t)(first_row + row) * all_heads + head) * HEAD_DIM;
  const int pairs = rotary / 2;
  const int rotates = dim < rotary && head < heads + kv_heads;
  const int partner = !rotates ? dim : dim < pairs ? dim + pairs : dim - pairs;
  float value = source[dim];
  float other = source[partner];
#ifdef QK_NORM
  if (head < heads + kv_heads) {
    const float factor = factors[(size_t)row * (heads + kv_heads) + head];
    __global const float *weight = head < heads ? q_norm : k_norm;
    value *= factor * weight[dim];
    other *= factor * weight[partner];
  }
#endif
  if (rotates) {
    __global const float *angles = rope + (size_t)(position + row) * rotary;
    const int pair = min(dim, partner);
    const float cosine = angles[pair];
    const float sine = angles[pairs + pair];
    value = dim < pairs ? value * cosine - other * sine : value * cosine + other * sine;
  }
  const size_t slot = position + row;
  if (head < heads) {
    q[((size_t)row * heads + head) * HEAD_DIM + dim] = value * scale;
  } else if (head < heads + kv_heads) {
    keys[((size_t)(head - heads) * HEAD_DIM + dim) * capacity + slot] = value;
  } else {
    values[((size_t)(head - heads - kv_heads) * capacity + slot) * HEAD_DIM + dim] = value;
  }
}

#define DIMS_PER_ITEM ((HEAD_DIM + WG - 1) / WG)
#define ITEMS_PER_LANE (WG / LANES)

// One tile of online softmax (Milakov and Gimelshein 2018, as in FlashAttention): replaces the scores
// of each lane by exp(score - new maximum) and updates the running maximum and sum.
// `correction` receives exp(old maximum - new maximum).
void SoftmaxTile(__local float *scores, __local float *partial, __local float *maximum,
                 __local float *sum, __local float *correction) {
  const int item = get_local_id(0);
  const int lane = item / ITEMS_PER_LANE;
  const int member = item % ITEMS_PER_LANE;
  float largest = -INFINITY;
  for (int j = member; j < WG; j += ITEMS_PER_LANE) largest = fmax(largest, scores[lane * WG + j]);
  partial[item] = largest;
  barrier(CLK_LOCAL_MEM_FENCE);
  largest = maximum[lane];
  for (int j = 0; j < ITEMS_PER_LANE; ++j) {
    largest = fmax(largest, partial[lane * ITEMS_PER_LANE + j]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float total = 0.0f;
  for (int j = member; j < WG; j += ITEMS_PER_LANE) {
    const float weight = exp(scores[lane * WG + j] - largest);
    scores[lane * WG + j] = weight;
    total += weight;
  }
  partial[item] = total;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (member == 0) {
    for (int j = 1; j < ITEMS_PER_LANE; ++j) total += partial[lane * ITEMS_PER_LANE + j];
    correction[lane] = exp(maximum[lane] - largest);
    sum[lane] = sum[lane] * correction[lane] + total;
    maximum[lane] = largest;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
}

// out = softmax(q k^T) v. A lane is a pair (row, head of the group), rows outermost; lane L of a
// kv head sees keys [0, position + row + 1) when causal, else [0, position + rows).
// Grid: [ceil(rows * heads / kv_heads / LANES) * WG, kv_heads].
__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void Attend(__global const float *q, __global const float *keys, __global const float *values,
            __global float *out, const int first_row, const int rows, const int heads,
            const int kv_heads, const int position, const int capacity, const int causal) {
  __local float queries[LANES * HEAD_DIM];
  __local float scores[LANES * WG];
  __local float partial[WG];
  __local float maximum[LANES];
  __local float sum[LANES];
  __local float correction[LANES];
  const int item = get_local_id(0);
  const int kv_head = get_global_id(1);
  const int ratio = heads / kv_heads;
  const int first_lane = get_group_id(0) * LANES;
  const int last_lane = rows * ratio - 1;
  keys += (size_t)kv_head * HEAD_DIM * capacity;
  values += (size_t)kv_head * HEAD_DIM * capacity;

  for (int i = item; i < LANES * HEAD_DIM; i += WG) {
    const int lane = min(first_lane + i / HEAD_DIM, last_lane);
    const size_t head = (size_t)(lane / ratio) * heads + kv_head * ratio + lane % ratio;
    queries[i] = q[head * HEAD_DIM + i % HEAD_DIM];
  }
  if (item < LANES) {
    maximum[item] = -INFINITY;
    sum[item] = 0.0f;
  }
  int limits[LANES];
  float sums[LANES * DIMS_PER_ITEM];
  for (int l = 0; l < LANES; ++l) {
    const int row = min(first_lane + l, last_lane) / ratio;
    limits[l] = position + (causal ? row + 1 : rows);
  }
  for (int i = 0; i < LANES * DIMS_PER_ITEM; ++i) sums[i] = 0.0f;
  const int end = limits[LANES - 1];  // the largest
  barrier(CLK_LOCAL_MEM_FENCE);

  for (int first = 0; first < end; first += WG) {
    const int key = first + item;
    float dots[LANES];
    for (int l = 0; l < LANES; ++l) dots[l] = 0.0f;
    if (key < end) {
      for (int dim = 0; dim < HEAD_DIM; ++dim) {
        const float k = keys[(size_t)dim * capacity + key];
        for (int l = 0; l < LANES; ++l) dots[l] = fma(queries[l * HEAD_DIM + dim], k, dots[l]);
      }
    }
    for (int l = 0; l < LANES; ++l) scores[l * WG + item] = key < limits[l] ? dots[l] : -INFINITY;
    barrier(CLK_LOCAL_MEM_FENCE);
    SoftmaxTile(scores, partial, maximum, sum, correction);
    const int count = min(WG, end - first);
    for (int i = 0; i < DIMS_PER_ITEM; ++i) {
      const int dim = item + i * WG;
      if (dim >= HEAD_DIM) continue;
      for (int l = 0; l < LANES; ++l) sums[l * DIMS_PER_ITEM + i] *= correction[l];
      for (int j = 0; j < count; ++j) {
        const float v = values[(size_t)(first + j) * HEAD_DIM + dim];
        for (int l = 0; l < LANES; ++l) {
          sums[l * DIMS_PER_ITEM + i] = fma(scores[l * WG + j], v, sums[l * DIMS_PER_ITEM + i]);
        }
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  for (int l = 0; l < LANES && first_lane + l <= last_lane; ++l) {
    const int row = first_row + (first_lane + l) / ratio;
    const int head = kv_head * ratio + (first_lane + l) % ratio;
    for (int i = 0; i < DIMS_PER_ITEM; ++i) {
      const int dim = item + i * WG;
      if (dim < HEAD_DIM) {
        out[((size_t)row * heads + head) * HEAD_DIM + dim] = sums[l * DIMS_PER_ITEM + i] / sum[l];
      }
    }
  }
}
