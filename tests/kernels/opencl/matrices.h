// Random weights of every kind that the backends must multiply by.
#ifndef QUANTD_TESTS_KERNELS_OPENCL_MATRICES_H_
#define QUANTD_TESTS_KERNELS_OPENCL_MATRICES_H_

#include <ostream>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace quantd {

struct MatrixCase {
  std::string name;
  Weight (*make)(int64_t rows, int64_t cols, unsigned seed);
  Compute compute = Compute::kFast;
  Layout layout = Layout::kIntGroup;  // expected for wide enough matrices
  // Error of a product relative to sum |w x|: float32 sums, and fma where the reference has two
  // roundings; half an ulp of float16 more where kFast stores a fallback so.
  float tolerance = 2e-6f;
};

inline void PrintTo(const MatrixCase& matrix, std::ostream* out) { *out << matrix.name; }

const std::vector<MatrixCase>& MatrixCases();
const MatrixCase& MatrixCaseNamed(const std::string& name);

// [rows, cols], the truth, with columns in the order of the codes.
std::vector<float> DenseOf(const Weight& weight);

}  // namespace quantd

#endif  // QUANTD_TESTS_KERNELS_OPENCL_MATRICES_H_
