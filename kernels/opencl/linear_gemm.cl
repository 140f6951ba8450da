// linear_gemm.cl - y = epilogue(x W^T) for many tokens; compute bound.
//
// A work-group of SIDE x SIDE work-items computes a tile of 4*SIDE rows of W by 4*SIDE tokens. Slices of
// DEPTH columns of W (decoded to float32 once) and of x are staged, transposed, in local memory; each
// work-item keeps a 4 x 4 block of sums in registers. Needs weights.cl and epilogue.cl.
// Grid: [ceil(rows / (4 SIDE)) * SIDE, ceil(tokens / (4 SIDE)) * SIDE].
#ifndef SIDE
#define SIDE 16
#endif
#define TILE (4 * SIDE)
#define DEPTH 32  // columns per slice, a multiple of 8
#define PITCH (TILE + 4)

void StageChunk(__local float *to, float8 values) {
  to[0 * PITCH] = values.s0;
  to[1 * PITCH] = values.s1;
  to[2 * PITCH] = values.s2;
  to[3 * PITCH] = values.s3;
  to[4 * PITCH] = values.s4;
  to[5 * PITCH] = values.s5;
  to[6 * PITCH] = values.s6;
  to[7 * PITCH] = values.s7;
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1)))
void LinearGemm(WEIGHT_PARAMETERS, const int rows, const int cols, __global const float *x,
                const int tokens, OUTPUT_PARAMETERS) {
  __local float weight_slice[DEPTH * PITCH];
  __local float input_slice[DEPTH * PITCH];
  const int across = get_local_id(0);
  const int down = get_local_id(1);
  const int first_row = get_group_id(0) * TILE;
  const int first_token = get_group_id(1) * TILE;
  float4 sums[4];  // sums[token].s(row)
  for (int t = 0; t < 4; ++t) sums[t] = (float4)(0.0f);

  for (int slice = 0; slice < chunks_per_row; slice += DEPTH / 8) {
    for (int i = down * SIDE + across; i < TILE * DEPTH / 8; i += SIDE * SIDE) {
      const int line = i / (DEPTH / 8);
      const int chunk = slice + i % (DEPTH / 8);
      const int staged = 8 * (i % (DEPTH / 8)) * PITCH + line;
      float8 weights = (float8)(0.0f);
      float8 inputs = (float8)(0.0f);
      if (chunk < chunks_per_row) {
        if (first_row + line < rows) {
          weights = LoadWeights(WEIGHT_ARGUMENTS, first_row + line, chunk);
        }
        if (first_token + line < tokens) {
          inputs = LoadInputs(x + (size_t)(first_token + line) * cols, chunk, cols);
        }
      }
      StageChunk(weight_slice + staged, weights);
      StageChunk(input_slice + staged, inputs);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int k = 0; k < DEPTH; ++k) {
      const float4 weights = vload4(across, weight_slice + k * PITCH);
      const float4 inputs = vload4(down, input_slice + k * PITCH);
      sums[0] = fma(weights, inputs.s0, sums[0]);
      sums[1] = fma(weights, inputs.s1, sums[1]);
      sums[2] = fma(weights, inputs.s2, sums[2]);
      sums[3] = fma(weights, inputs.s3, sums[3]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  for (int t = 0; t < 4; ++t) {
    float block[4];
    vstore4(sums[t], 0, block);
    const int token = first_token + 4 * down + t;
    for (int r = 0; r < 4; ++r) {
      const int row = first_row + 4 * across + r;
      if (row < rows && token < tokens) StoreOutput(OUTPUT_ARGUMENTS, token, row, block[r]);
    }
  }
}
