// matrix_product.cl - C += A B in float32, every bit as the CPU has it (kernels/matrix_product.h,
// bfloat16_product.h): an element is, slice after slice of the inner dimension, C plus the sum of a slice. The
// sum is a chain of fused multiply-adds from zero, k ascending; with BFLOAT16 one chain of the even k and one
// of the odd, added up. So nothing here may contract, reorder or pad a chain: the last steps of an inner
// dimension that DEPTH does not divide are left out, not multiplied by zeros.
//
// A [rows, inner] and B [inner, cols] have any strides, one of an operand's being 1; rows of C are c_stride
// apart. With `upper_only`, tiles below the diagonal are left out.
#pragma OPENCL FP_CONTRACT OFF

// Part of the result.
#ifdef BFLOAT16
#define SLICE 32
#else
#define SLICE 256
#endif

#define PRODUCT_PARAMETERS                                                                          \
  __global const float *a, const int a_first_row, const int a_row_stride, const int a_col_stride,   \
      __global const float *b, const int b_row_stride, const int b_col_stride, __global float *c,   \
      const int c_stride, const int rows, const int cols, const int inner, const int upper_only

// Element (i, j) of a matrix.
#define AT(data, i, row_stride, j, col_stride) \
  data[(size_t)(i) * (row_stride) + (size_t)(j) * (col_stride)]

#define LEAST_BITS (77u << 23)  // 2^-50

// To nearest bfloat16, ties to even; what is below 2^-50 to zero.
__kernel void RoundToBFloat16(__global float *values, const int count) {
  const int i = get_global_id(0);
  if (i >= count) return;
  const uint bits = as_uint(values[i]);
  const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  values[i] = (bits & 0x7fffffffu) < LEAST_BITS ? 0.0f : as_float(rounded);
}

#ifdef SIDE

// On GPUs: a work-group of SIDE x SIDE work-items computes a tile. Slices of DEPTH of A and B are staged in
// local memory; each work-item keeps the sums of DOWN x ACROSS blocks of four by four that lie 4 SIDE apart,
// so that neighbours read neighbouring floats.
// Grid: [ceil(cols / TILE_COLS) * SIDE, ceil(rows / TILE_ROWS) * SIDE].
#ifndef DOWN
#define DOWN 2
#endif
#ifndef ACROSS
#define ACROSS 2
#endif
#define TILE_ROWS (4 * DOWN * SIDE)
#define TILE_COLS (4 * ACROSS * SIDE)
#define DEPTH 16  // even; divides SLICE
#define SUMS (4 * DOWN * ACROSS)

// to[k][line] = element (first_line + line, first + k), zeros past the last line; `pitch` from k to k.
void StageTile(__global const float *from, int line_stride, int step_stride, int first_line, int lines,
               int tile, int first, int depth, __local float *to) {
  const int pitch = tile + 4;
  const int item = get_local_id(1) * SIDE + get_local_id(0);
  for (int i = item; i < tile * DEPTH; i += SIDE * SIDE) {
    const int line = step_stride == 1 ? i / DEPTH : i % tile;
    const int k = step_stride == 1 ? i % DEPTH : i / tile;
    const bool is_there = first_line + line < lines && k < depth;
    to[k * pitch + line] =
        is_there ? AT(from, first_line + line, line_stride, first + k, step_stride) : 0.0f;
  }
}

// One more step of the chains: sums[4 DOWN][ACROSS].
void Step(__local const float *left, __local const float *right, int across, int down, float4 *sums) {
  float4 b[ACROSS];
#pragma unroll
  for (int q = 0; q < ACROSS; ++q) b[q] = vload4(across + q * SIDE, right);
#pragma unroll
  for (int p = 0; p < DOWN; ++p) {
    const float4 a = vload4(down + p * SIDE, left);
#pragma unroll
    for (int q = 0; q < ACROSS; ++q) {
      float4 *sum = sums + 4 * p * ACROSS + q;
      sum[0 * ACROSS] = fma((float4)(a.s0), b[q], sum[0 * ACROSS]);
      sum[1 * ACROSS] = fma((float4)(a.s1), b[q], sum[1 * ACROSS]);
      sum[2 * ACROSS] = fma((float4)(a.s2), b[q], sum[2 * ACROSS]);
      sum[3 * ACROSS] = fma((float4)(a.s3), b[q], sum[3 * ACROSS]);
    }
  }
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1)))
void MatrixProduct(PRODUCT_PARAMETERS) {
  __local float left[DEPTH * (TILE_ROWS + 4)];
  __local float right[DEPTH * (TILE_COLS + 4)];
  const int across = get_local_id(0);
  const int down = get_local_id(1);
  const int first_col = get_group_id(0) * TILE_COLS;
  const int first_row = get_group_id(1) * TILE_ROWS;
  if (upper_only && first_row >= first_col + TILE_COLS) return;
  __global const float *from_a = &AT(a, a_first_row, a_row_stride, 0, a_col_stride);
  for (int slice = 0; slice < inner; slice += SLICE) {
    const int end = min(inner, slice + SLICE);
    float4 even[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) even[i] = (float4)(0.0f);
#ifdef BFLOAT16
    float4 odd[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) odd[i] = (float4)(0.0f);
#else
#define odd even
#endif
    for (int first = slice; first < end; first += DEPTH) {
      const int depth = min(DEPTH, end - first);
      StageTile(from_a, a_row_stride, a_col_stride, first_row, rows, TILE_ROWS, first, depth, left);
      StageTile(b, b_col_stride, b_row_stride, first_col, cols, TILE_COLS, first, depth, right);
      barrier(CLK_LOCAL_MEM_FENCE);
      __local const float *a_line = left;
      __local const float *b_line = right;
      if (depth == DEPTH) {
#pragma unroll
        for (int k = 0; k < DEPTH; k += 2) {
          Step(a_line, b_line, across, down, even);
          Step(a_line + TILE_ROWS + 4, b_line + TILE_COLS + 4, across, down, odd);
          a_line += 2 * (TILE_ROWS + 4);
          b_line += 2 * (TILE_COLS + 4);
        }
      } else {
        for (int k = 0; k + 2 <= depth; k += 2) {
          Step(a_line, b_line, across, down, even);
          Step(a_line + TILE_ROWS + 4, b_line + TILE_COLS + 4, across, down, odd);
          a_line += 2 * (TILE_ROWS + 4);
          b_line += 2 * (TILE_COLS + 4);
        }
        if (depth % 2 != 0) Step(a_line, b_line, across, down, even);
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
#pragma unroll
    for (int i = 0; i < 4 * DOWN; ++i) {
      const int row = first_row + 4 * (down + i / 4 * SIDE) + i % 4;
#pragma unroll
      for (int q = 0; q < ACROSS; ++q) {
        const int col = first_col + 4 * (across + q * SIDE);
        float sum[4];
#ifdef BFLOAT16
        even[i * ACROSS + q] += odd[i * ACROSS + q];
#endif
        vstore4(even[i * ACROSS + q], 0, sum);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (row < rows && col + j < cols) AT(c, row, c_stride, col + j, 1) += sum[j];
        }
      }
    }
  }
}

#else

// On CPUs: a work-item is a thread's whole task, at most TASK_ROWS x PANEL. It lays SPAN of the inner dimension
// of B out as a panel once, then runs its rows over it, STEP at a time, with their sums in vector registers.
// Grid: [ceil(cols / PANEL), ceil(rows / TASK_ROWS)], groups of one.
#define PANEL 32
#define SPAN 256  // a multiple of SLICE
#define STEP 6
#ifndef TASK_ROWS
#define TASK_ROWS 96  // a multiple of STEP
#endif

// panel[k][col] for `depth` steps and `width` columns, zeros beyond.
void LayOut(__global const float *from, int row_stride, int col_stride, int depth, int width, float *panel) {
  if (width < PANEL) {
    for (int i = 0; i < depth * PANEL; ++i) panel[i] = 0.0f;
  }
  if (col_stride == 1) {
    for (int k = 0; k < depth; ++k) {
      for (int j = 0; j < width; ++j) panel[k * PANEL + j] = AT(from, k, row_stride, j, 1);
    }
  } else {
    for (int j = 0; j < width; ++j) {
      for (int k = 0; k < depth; ++k) {
        panel[k * PANEL + j] = AT(from, k, row_stride, j, col_stride);
      }
    }
  }
}

// The chains low[STEP] and high[STEP] of both halves of a panel, over `depth` steps, `by` at a time.
void Chain(__global const float *const *lines, int stride, const float *panel, int depth, int by, float16 *low,
           float16 *high) {
#pragma unroll
  for (int r = 0; r < STEP; ++r) low[r] = high[r] = (float16)(0.0f);
  for (int k = 0; k < depth; k += by) {
    const float16 first_half = vload16(2 * k, panel);
    const float16 second_half = vload16(2 * k + 1, panel);
#pragma unroll
    for (int r = 0; r < STEP; ++r) {
      const float16 value = (float16)(lines[r][(size_t)k * stride]);
      low[r] = fma(value, first_half, low[r]);
      high[r] = fma(value, second_half, high[r]);
    }
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void MatrixProduct(PRODUCT_PARAMETERS) {
  const int first_col = get_group_id(0) * PANEL;
  const int first_row = get_group_id(1) * TASK_ROWS;
  if (upper_only && first_row >= first_col + PANEL) return;
  const int width = min(PANEL, cols - first_col);
  const int end_row = min(rows, first_row + TASK_ROWS);
  float panel[SPAN * PANEL];
  for (int span = 0; span < inner; span += SPAN) {
    const int span_depth = min(SPAN, inner - span);
    LayOut(&AT(b, span, b_row_stride, first_col, b_col_stride), b_row_stride, b_col_stride, span_depth, width,
           panel);
    for (int row = first_row; row < end_row; row += STEP) {
      for (int slice = 0; slice < span_depth; slice += SLICE) {
        const int depth = min(SLICE, span_depth - slice);
        __global const float *lines[STEP];
#pragma unroll
        for (int r = 0; r < STEP; ++r) {
          lines[r] =
              &AT(a, a_first_row + min(row + r, end_row - 1), a_row_stride, span + slice, a_col_stride);
        }
        float16 low[STEP], high[STEP];
#ifdef BFLOAT16
        float16 odd_low[STEP], odd_high[STEP];
        Chain(lines, a_col_stride, panel + slice * PANEL, depth, 2, low, high);
#pragma unroll
        for (int r = 0; r < STEP; ++r) lines[r] += depth > 1 ? a_col_stride : 0;
        Chain(lines, a_col_stride, panel + (slice + 1) * PANEL, depth - 1, 2, odd_low, odd_high);
#pragma unroll
        for (int r = 0; r < STEP; ++r) {
          low[r] += odd_low[r];
          high[r] += odd_high[r];
        }
#else
        Chain(lines, a_col_stride, panel + slice * PANEL, depth, 1, low, high);
#endif
        for (int r = 0; r < STEP && row + r < end_row; ++r) {
          float sum[PANEL];
          vstore16(low[r], 0, sum);
          vstore16(high[r], 1, sum);
          __global float *to = &AT(c, row + r, c_stride, first_col, 1);
          for (int j = 0; j < width; ++j) to[j] += sum[j];
        }
      }
    }
  }
}

#endif
