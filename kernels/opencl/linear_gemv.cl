// linear_gemv.cl - y = epilogue(x W^T) for a few tokens; memory bound.
//
// A work-group computes ROWS rows of W for TOKENS tokens. Its WG work-items stride over the chunks of
// eight columns, so that neighbours read neighbouring chunks; partial sums meet in local memory. On
// CPU devices, whose groups run on one core, WG is 1.
// Needs weights.cl and epilogue.cl. Grid: [ceil(rows / ROWS) * WG, ceil(tokens / TOKENS)].
#ifndef WG
#define WG 64  // a power of two
#endif
#ifndef ROWS
#define ROWS 4
#endif
#ifndef TOKENS
#define TOKENS 1
#endif

__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void LinearGemv(WEIGHT_PARAMETERS, const int rows, const int cols, __global const float *x,
                const int tokens, OUTPUT_PARAMETERS) {
  const int lane = get_local_id(0);
  const int first_row = get_group_id(0) * ROWS;
  const int first_token = get_group_id(1) * TOKENS;
  float8 sums[ROWS * TOKENS];
#pragma unroll
  for (int i = 0; i < ROWS * TOKENS; ++i) sums[i] = (float8)(0.0f);

  for (int chunk = lane; chunk < chunks_per_row; chunk += WG) {
    float8 inputs[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
      const int token = min(first_token + t, tokens - 1);
      inputs[t] = LoadInputs(x + (size_t)token * cols, chunk, cols);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int row = min(first_row + r, rows - 1);
      const float8 weights = LoadWeights(WEIGHT_ARGUMENTS, row, chunk);
#pragma unroll
      for (int t = 0; t < TOKENS; ++t) sums[r * TOKENS + t] += weights * inputs[t];
    }
  }

  __local float partial[ROWS * TOKENS * WG];
  for (int i = 0; i < ROWS * TOKENS; ++i) partial[i * WG + lane] = Sum8(sums[i]);
  for (int reach = WG / 2; reach > 0; reach /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < reach) {
      for (int i = 0; i < ROWS * TOKENS; ++i) {
        partial[i * WG + lane] += partial[i * WG + lane + reach];
      }
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = lane; i < ROWS * TOKENS; i += WG) {
    const int row = first_row + i / TOKENS;
    const int token = first_token + i % TOKENS;
    if (row < rows && token < tokens) StoreOutput(OUTPUT_ARGUMENTS, token, row, partial[i * WG]);
  }
}
