// round_inputs.cl - y = x rounded as core/input_rounding.h says, by runs of `group` inputs of a token.
//
//   y = (nearest(clamp(x / scale + zero)) - zero) * scale
//
// One work-group of WG work-items per run; with DYNAMIC the run's range gives the scale. MANTISSA
// bits of the values' format and its LEAST exponent of normal numbers; INTEGER has neither.
// y may be x.
#ifndef MANTISSA
#define INTEGER 1
#endif
#define SYMMETRIC 1
#define BY_RECIPROCAL 2

// `value` is inside the format's range; half to even.
float ToSmallFloat(float value, int mantissa, int least) {
  const int power = max((int)((as_uint(value) >> 23) & 0xff) - 127, least);
  const float step = as_float((uint)(power - mantissa + 127) << 23);
  return rint(value / step) * step;
}

// Static: `scale` and `zero` are the inputs'. Dynamic: `scale` is the scale of scales, or 0, and
// `upper_bound` and `least_scale` are what they say, or 0.
__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void RoundInputs(__global const float *x, __global float *y, const int cols, const int group,
                 const int flags, const float low, const float high, float scale, float zero,
                 const float upper_bound, const float least_scale) {
  const int first = get_group_id(0) * group;
  const int end = min(first + group, cols);
  const int lane = get_local_id(0);
  x += (size_t)get_group_id(1) * cols;
  y += (size_t)get_group_id(1) * cols;
#ifdef DYNAMIC
  __local float scratch[WG];
  float below = 0.0f, above = 0.0f;
  for (int c = first + lane; c < end; c += WG) {
    below = fmax(below, -x[c]);
    above = fmax(above, x[c]);
  }
  below = GroupMax(below, scratch);
  above = GroupMax(above, scratch);
  const float whole = scale;
  if (flags & SYMMETRIC) {
    float largest = fmax(below, above);
    if (upper_bound > 0.0f) largest = fmin(largest, upper_bound);
    scale = fmax(largest / ((high - low) / 2.0f), least_scale);
    if (whole > 0.0f) {
      const float stored = ToSmallFloat(fmin(scale * whole, 448.0f), 3, -6);
      scale = (stored == 0.0f ? 0.125f : stored) / whole;
    }
  } else {
    scale = (above + below) / (high - low);
    zero = scale == 0.0f ? 0.0f : rint(clamp(low + below / scale, low, high));
  }
  if (scale == 0.0f) scale = FLT_EPSILON;
#endif
  for (int c = first + lane; c < end; c += WG) {
#ifdef INTEGER
    const float code = flags & BY_RECIPROCAL ? clamp(rint(x[c] * (1.0f / scale)) + zero, low, high)
                                             : rint(clamp(x[c] / scale + zero, low, high));
    y[c] = (code - zero) * scale;
#else
    y[c] = ToSmallFloat(clamp(x[c] / scale, low, high), MANTISSA, LEAST) * scale;
#endif
  }
}
