// How one matrix becomes a QuantizedTensor: a grid, a block that shares a scale, and the solver that
// chooses the codes. A Scheme is what a method's recipe assigns to a module.
#ifndef QUANTD_QUANTIZERS_SCHEME_H_
#define QUANTD_QUANTIZERS_SCHEME_H_

#include <span>
#include <string>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// Statistics of a linear's inputs, for calibrated solvers and importance matrices.
struct InputStats {
  std::span<const float> importance;  // [cols] mean of squared inputs, or empty
};

class Scheme {
 public:
  virtual ~Scheme() = default;

  // "int4 group 128 symmetric", for reports.
  virtual std::string Describe() const = 0;

  // Whether a matrix of this shape can take the scheme. INVALID_ARGUMENT says why not and what is
  // allowed (for example a group size that does not divide the columns).
  virtual absl::Status CheckShape(int64_t rows, int64_t cols) const = 0;

  // Quantizes `weight` [rows, cols], a finite float matrix in the dtype that upstream would see.
  // Deterministic: same bytes for any number of threads and any ISA.
  virtual absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                                   const InputStats* stats) const = 0;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SCHEME_H_
