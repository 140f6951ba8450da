// work_group.cl - reductions over a work-group of WG work-items; `scratch` has WG entries.
#ifndef WG
#define WG 128  // a power of two
#endif

// The sum of `value` over the work-group, in every work-item.
float GroupSum(float value, __local float *scratch) {
  const int lane = get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  scratch[lane] = value;
  for (int reach = WG / 2; reach > 0; reach /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < reach) scratch[lane] += scratch[lane + reach];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  return scratch[0];
}

// The largest `value` of the work-group, in every work-item.
float GroupMax(float value, __local float *scratch) {
  const int lane = get_local_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);
  scratch[lane] = value;
  for (int reach = WG / 2; reach > 0; reach /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane < reach) scratch[lane] = fmax(scratch[lane], scratch[lane + reach]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  return scratch[0];
}
