// Sylvester's Hadamard matrices H, sizes that are powers of two, by the fast Walsh-Hadamard
// transform.
#ifndef QUANTD_CORE_HADAMARD_H_
#define QUANTD_CORE_HADAMARD_H_

#include <cstdint>

namespace quantd {

// values[size] := H values; entries of H are 1 and -1.
void HadamardTransform(float* values, int64_t size);

// The same on each run of `size` values, divided by sqrt(size): a rotation that is its own inverse.
// `size` divides `count`.
void RotateByHadamard(float* values, int64_t count, int64_t size);

}  // namespace quantd

#endif  // QUANTD_CORE_HADAMARD_H_
