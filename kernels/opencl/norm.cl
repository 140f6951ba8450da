// norm.cl - y = norm(x + residual) per token: RMSNorm, LayerNorm or none.
//
//   rms:   y = z * weight / sqrt(mean(z^2) + epsilon)
//   layer: y = (z - mean(z)) * weight / sqrt(var(z) + epsilon) + bias      (variance in a second pass)
// With INT8_TOKENS y is then rounded to whole 127ths of its token's largest magnitude (at least
// 1e-5), half to even; with INT8_TOKENS 2 it is their number, and steps[token] how many make 1.
// One work-group of WG work-items per token. y may be x or residual.
#ifndef NORM
#define NORM 1  // 0: none, 1: rms, 2: layer, as Norm::Kind
#endif
#define HAS_BIAS 1
#define HAS_RESIDUAL 2

float Input(__global const float *x, __global const float *residual, int flags, int col) {
  return flags & HAS_RESIDUAL ? x[col] + residual[col] : x[col];
}

__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void NormalizeRows(__global const float *x, __global const float *residual,
                   __global const float *weight, __global const float *bias, __global float *y,
                   const int cols, const int flags, const float epsilon,
                   __global float *token_steps) {
  __local float scratch[WG];
  const size_t row = (size_t)get_group_id(0) * cols;
  const int lane = get_local_id(0);
  x += row;
  residual += row;
  y += row;
  float mean = 0.0f;
#if NORM == 2
  float sum = 0.0f;
  for (int col = lane; col < cols; col += WG) sum += Input(x, residual, flags, col);
  mean = GroupSum(sum, scratch) / cols;
#endif
  float scale = 1.0f;
#if NORM != 0
  float squares = 0.0f;
  for (int col = lane; col < cols; col += WG) {
    const float centered = Input(x, residual, flags, col) - mean;
    squares = fma(centered, centered, squares);
  }
  scale = 1.0f / sqrt(GroupSum(squares, scratch) / cols + epsilon);
#endif
  float largest = 1e-5f;
  for (int col = lane; col < cols; col += WG) {
    float value = (Input(x, residual, flags, col) - mean) * scale;
#if NORM != 0
    value *= weight[col];
#endif
    if (flags & HAS_BIAS) value += bias[col];
    y[col] = value;
    largest = fmax(largest, fabs(value));
  }
#ifdef INT8_TOKENS
  // Every work-item reads what it wrote itself.
  const float steps = 127.0f / GroupMax(largest, scratch);
  for (int col = lane; col < cols; col += WG) {
    const float count = clamp(rint(y[col] * steps), -128.0f, 127.0f);
    y[col] = INT8_TOKENS == 2 ? count : count / steps;
  }
  if (INT8_TOKENS == 2 && lane == 0) token_steps[get_group_id(0)] = steps;
#endif
}

// factors [rows, heads + kv_heads]: what an RMS norm multiplies each head of q and k by, weights apart.
// The sequence starts at row `first_row` of qkv [(heads + 2 kv_heads) * head_dim]. One work-group per
// head. Grid: [(heads + kv_heads) * WG, rows].
__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void HeadFactors(__global const float *qkv, __global float *factors, const int first_row,
                 const int heads, const int kv_heads, const int head_dim, const float epsilon) {
  __local float scratch[WG];
  const int head = get_group_id(0);
  const int row = get_group_id(1);
  const int lane = get_local_id(0);
  qkv += ((size_t)(first_row + row) * (heads + 2 * kv_heads) + head) * head_dim;
  float squares = 0.0f;
  for (int dim = lane; dim < head_dim; dim += WG) squares = fma(qkv[dim], qkv[dim], squares);
  const float mean = GroupSum(squares, scratch) / head_dim;
  if (lane == 0) factors[(size_t)row * (heads + kv_heads) + head] = 1.0f / sqrt(mean + epsilon);
}

// y = x * multiplier, if there is one, then every run of `size` (a power of two, above 1) values times
// the normalized Hadamard matrix: levels of butterflies in place. One work-group per run; y may be x.
// Grid: [cols / size * WG, tokens].
__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void PrepareInputs(__global const float *x, __global const float *multiplier, __global float *y,
                   const int cols, const int size, const int has_multiplier) {
  const int lane = get_local_id(0);
  const int first = get_group_id(0) * size;
  const size_t begin = (size_t)get_group_id(1) * cols + first;
  x += begin;
  y += begin;
  for (int i = lane; i < size; i += WG) y[i] = has_multiplier ? x[i] * multiplier[first + i] : x[i];
  for (int half_run = 1; half_run < size; half_run *= 2) {
    barrier(CLK_GLOBAL_MEM_FENCE);
    for (int p = lane; p < size / 2; p += WG) {
      const int low = p / half_run * 2 * half_run + p % half_run;
      const float a = y[low], b = y[low + half_run];
      y[low] = a + b;
      y[low + half_run] = a - b;
    }
  }
  barrier(CLK_GLOBAL_MEM_FENCE);
  const float norm = 1.0f / sqrt((float)size);
  for (int i = lane; i < size; i += WG) y[i] *= norm;
}
