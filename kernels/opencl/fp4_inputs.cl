// fp4_inputs.cl - inputs rotated by a matrix and rounded to blocks of E2M1 numbers, in the order of
// core/hadamard.h and core/fp4_blocks.h, so that both round alike.
#pragma OPENCL FP_CONTRACT OFF

#define E4M3_OF_MAX 1
#define POWER_OF_MAX 2
#define POWER_OF_DEVIATION 3

// y[t] = runs of `size` values of x[t] times matrix [size, size]; y is not x. Grid: [cols, tokens].
__kernel void RotateInputs(__global const float *x, __global const float *matrix,
                           __global float *y, const int cols, const int size) {
  const int col = get_global_id(0);
  const int j = col % size;
  const size_t begin = (size_t)get_global_id(1) * cols;
  __global const float *run = x + begin + col - j;
  float sum = 0.0f;
  for (int i = 0; i < size; ++i) sum += run[i] * matrix[i * size + j];
  y[begin + col] = sum;
}

float PowerAtOrBelow(float value) {
  return fmin(as_float(as_uint(value) & 0x7f800000u), 0x1p125f);
}

// Not negative; half to even.
float ToE4M3(float value) {
  const int power = max((int)((as_uint(value) >> 23) & 0xff) - 127, -6);
  const float step = as_float((uint)(power - 3 + 127) << 23);
  return rint(value / step) * step;
}

// Ties go to the even code, or to the lower one.
float ToE2M1(float x, int even) {
  const float a = fabs(x);
  const float magnitude =
      a > 5.0f                                   ? 6.0f
      : (even ? a >= 3.5f : a > 3.5f)            ? 4.0f
      : a > 2.5f                                 ? 3.0f
      : (even ? a >= 1.75f : a > 1.75f)          ? 2.0f
      : a > 1.25f                                ? 1.5f
      : (even ? a >= 0.75f : a > 0.75f)          ? 1.0f
      : a > 0.25f                                ? 0.5f
                                                 : 0.0f;
  return x < 0.0f ? -magnitude : magnitude;
}

// One work-item per block of `size` values. `kind` is how scales are found. y may be x.
// Grid: [blocks of a token, tokens].
__kernel void RoundToFp4(__global const float *x, __global float *y, const int cols, const int size,
                         const int kind, const int even, const float global_scale) {
  const int first = get_global_id(0) * size;
  const int count = min(size, cols - first);
  const size_t begin = (size_t)get_global_id(1) * cols + first;
  x += begin;
  y += begin;
  float scale;
  if (kind == POWER_OF_DEVIATION) {
    float sum = 0.0f, squares = 0.0f;
    for (int i = 0; i < count; ++i) {
      sum += x[i];
      squares += x[i] * x[i];
    }
    const float mean = sum / count;
    const float variance = squares / count - mean * mean;
    scale = variance >= 0.0f ? PowerAtOrBelow(sqrt(variance) * (2.92247856f / 6.0f) + 1e-8f) : 1.0f;
  } else {
    float largest = 0.0f;
    for (int i = 0; i < count; ++i) largest = fmax(largest, fabs(x[i]));
    if (kind == POWER_OF_MAX) {
      scale = PowerAtOrBelow(even ? largest + 1e-8f : largest);
    } else {
      const float exact = even ? global_scale * (largest * (1.0f / 6.0f))
                               : global_scale * largest / 6.0f;
      scale = ToE4M3(fmin(exact, 448.0f));
    }
  }
  const float third = scale / 3.0f;
  const float factor = scale != 0.0f ? 1.0f / (scale * (1.0f / global_scale)) : 0.0f;
  for (int i = 0; i < count; ++i) {
    float value;
    if (kind == POWER_OF_DEVIATION) {
      value = x[i] / scale;
    } else if (kind == POWER_OF_MAX) {
      value = even ? x[i] / scale * 3.0f : x[i] / third;
    } else {
      value = even ? x[i] * factor : x[i] * global_scale / scale;
    }
    y[i] = scale == 0.0f ? 0.0f : ToE2M1(value, even) * scale / global_scale;
  }
}
