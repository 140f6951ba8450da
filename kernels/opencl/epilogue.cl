// epilogue.cl - y = activation(sum + bias) + residual, one element at a time.
//
// ACTIVATION has the values of kernels/backend.h's Activation; 1 (SiluMul) is a kernel of its own
// (elementwise.cl) because it combines two rows of the matrix.
#ifndef ACTIVATION
#define ACTIVATION 0
#endif

float Silu(float x) { return x / (1.0f + exp(-x)); }

float Activate(float x) {
#if ACTIVATION == 2
  return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f));
#elif ACTIVATION == 3
  return 0.5f * x * (1.0f + tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
#elif ACTIVATION == 4
  return fmax(x, 0.0f);
#elif ACTIVATION == 5
  return Silu(x);
#elif ACTIVATION == 6
  return tanh(x);
#else
  return x;
#endif
}

// Bits of the `flags` argument: which optional operands are there.
#define HAS_BIAS 1
#define HAS_RESIDUAL 2
#define HAS_DIVISOR 4

// Where the results of one matrix go. Rows of y and residual are `y_stride` and `residual_stride`
// floats apart; the matrix fills columns [column, column + rows) of y.
#define OUTPUT_PARAMETERS                                                                   \
  __global const float *bias, __global const float *residual, __global float *y,            \
      const int flags, const int residual_stride, const int y_stride, const int column,     \
      __global const float *divisor, __global const float *token_steps
#define OUTPUT_ARGUMENTS \
  bias, residual, y, flags, residual_stride, y_stride, column, divisor, token_steps

// `residual` may be y itself: an element is read before it is written, by the same work-item.
void StoreOutput(OUTPUT_PARAMETERS, int token, int row, float sum) {
  if (flags & HAS_DIVISOR) sum /= divisor[column + row] * token_steps[token];
  if (flags & HAS_BIAS) sum += bias[column + row];
  float value = Activate(sum);
  if (flags & HAS_RESIDUAL) value += residual[(size_t)token * residual_stride + column + row];
  y[(size_t)token * y_stride + column + row] = value;
}
