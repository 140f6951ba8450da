// linear_block.cl - y = epilogue(x W^T) for many tokens, on CPU devices.
//
// A CPU runs the work-items of a group one after the other and has no local memory apart from its
// cache, so here a work-item is a thread's whole task: ROWS rows of W for TOKENS tokens. It decodes a
// slice of DEPTH chunks of its rows once, then runs all tokens over it, STEP at a time, with the
// ROWS x STEP running sums in vector registers. Needs weights.cl and epilogue.cl.
// Grid: [ceil(rows / ROWS), ceil(tokens / TOKENS)], groups of one.
#ifndef TOKENS
#define TOKENS 32  // a multiple of STEP
#endif
#define ROWS 4
#define STEP 4
#define DEPTH 32

// sums[r][t] += slice of row r of W * slice of token t's inputs, for STEP tokens.
void MultiplySlice(const float8 *weights, __global const float *const *inputs, int first_chunk,
                   int count, int cols, float8 *sums) {
  float8 block[ROWS * STEP];
#pragma unroll
  for (int i = 0; i < ROWS * STEP; ++i) block[i] = sums[i];
  const int whole = min(count, cols / 8 - first_chunk);
  for (int k = 0; k < whole; ++k) {
    float8 x[STEP];
#pragma unroll
    for (int t = 0; t < STEP; ++t) x[t] = vload8(first_chunk + k, inputs[t]);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
      for (int t = 0; t < STEP; ++t) block[r * STEP + t] += weights[r * DEPTH + k] * x[t];
    }
  }
  if (whole < count) {
#pragma unroll
    for (int t = 0; t < STEP; ++t) {
      const float8 x = LoadInputs(inputs[t], first_chunk + whole, cols);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) block[r * STEP + t] += weights[r * DEPTH + whole] * x;
    }
  }
#pragma unroll
  for (int i = 0; i < ROWS * STEP; ++i) sums[i] = block[i];
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void LinearBlock(WEIGHT_PARAMETERS, const int rows, const int cols, __global const float *x,
                 const int tokens, OUTPUT_PARAMETERS) {
  const int first_row = get_group_id(0) * ROWS;
  const int first_token = get_group_id(1) * TOKENS;
  const int count = min(TOKENS, tokens - first_token);
  float8 weights[ROWS * DEPTH];
  float8 sums[TOKENS / STEP][ROWS * STEP];
  for (int i = 0; i < TOKENS / STEP; ++i) {
    for (int j = 0; j < ROWS * STEP; ++j) sums[i][j] = (float8)(0.0f);
  }

  for (int slice = 0; slice < chunks_per_row; slice += DEPTH) {
    const int depth = min(DEPTH, chunks_per_row - slice);
    for (int r = 0; r < ROWS; ++r) {
      const int row = min(first_row + r, rows - 1);
      for (int k = 0; k < depth; ++k) {
        weights[r * DEPTH + k] = LoadWeights(WEIGHT_ARGUMENTS, row, slice + k);
      }
    }
    for (int first = 0; first < count; first += STEP) {
      __global const float *inputs[STEP];
      for (int t = 0; t < STEP; ++t) {
        inputs[t] = x + (size_t)(first_token + min(first + t, count - 1)) * cols;
      }
      MultiplySlice(weights, inputs, slice, depth, cols, sums[first / STEP]);
    }
  }

  for (int t = 0; t < count; ++t) {
    for (int r = 0; r < ROWS && first_row + r < rows; ++r) {
      const float sum = Sum8(sums[t / STEP][r * STEP + t % STEP]);
      StoreOutput(OUTPUT_ARGUMENTS, first_token + t, first_row + r, sum);
    }
  }
}
