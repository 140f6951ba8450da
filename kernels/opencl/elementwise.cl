// elementwise.cl - the small kernels around the matrix products. All arrays are float32, row-major.

// y[t][c] = silu(gate) * up + residual, with gate = stacked[t][c] and up = stacked[t][width + c].
// Grid: [width, tokens].
__kernel void SiluMul(__global const float *stacked, __global const float *residual,
                      __global float *y, const int width, const int has_residual) {
  const int col = get_global_id(0);
  const size_t token = get_global_id(1);
  const float gate = stacked[token * 2 * width + col];
  const float up = stacked[token * 2 * width + width + col];
  float value = gate / (1.0f + exp(-gate)) * up;
  if (has_residual) value += residual[token * width + col];
  y[token * width + col] = value;
}

// y[i] = x[rows[i]]. Grid: [cols, number of rows].
__kernel void GatherRows(__global const float *x, __global const int *rows, __global float *y,
                         const int cols) {
  const int col = get_global_id(0);
  const size_t row = get_global_id(1);
  y[row * cols + col] = x[(size_t)rows[row] * cols + col];
}

// y[t][c] = x[t][c] * multiplier[c]; y may be x. Grid: [cols, tokens].
__kernel void ScaleColumns(__global const float *x, __global const float *multiplier,
                           __global float *y, const int cols) {
  const size_t col = get_global_id(0);
  const size_t at = get_global_id(1) * cols + col;
  y[at] = x[at] * multiplier[col];
}

// y[t][c] = x[t][order[c]]; y is not x. Grid: [cols, tokens].
__kernel void GatherColumns(__global const float *x, __global const int *order, __global float *y,
                            const int cols) {
  const int col = get_global_id(0);
  const size_t begin = (size_t)get_global_id(1) * cols;
  y[begin + col] = x[begin + order[col]];
}
