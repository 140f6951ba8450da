// Sylvester's Hadamard matrices H, sizes that are powers of two, by the fast Walsh-Hadamard
// transform; and other matrices that runs of values are rotated by.
#ifndef QUANTD_CORE_HADAMARD_H_
#define QUANTD_CORE_HADAMARD_H_

#include <cstdint>
#include <optional>
#include <span>

namespace quantd {

// values[size] := H values; entries of H are 1 and -1.
void HadamardTransform(float* values, int64_t size);

// The same on each run of `size` values, divided by sqrt(size): a rotation that is its own inverse.
// `size` divides `count`.
void RotateByHadamard(float* values, int64_t count, int64_t size);

// The number by which the matrix [size, size] is a multiple of H; nullopt when it is none, or
// empty.
std::optional<float> HadamardFactor(std::span<const float> matrix, int64_t size);

// Each run x of `size` values becomes x M, or x M^T, for a matrix M [size, size] of any kind. Sums
// go along x, one product after the other. `to` is not `from`; `size` divides `count`.
void MultiplyByMatrix(const float* from, int64_t count, const float* matrix, int64_t size,
                      float* to);
void MultiplyByTransposed(const float* from, int64_t count, const float* matrix, int64_t size,
                          float* to);

}  // namespace quantd

#endif  // QUANTD_CORE_HADAMARD_H_
