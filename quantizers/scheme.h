// How one matrix becomes a QuantizedTensor: a grid, a block that shares a scale, and the solver
// that chooses the codes. A Scheme is what a method's recipe assigns to a module.
#ifndef QUANTD_QUANTIZERS_SCHEME_H_
#define QUANTD_QUANTIZERS_SCHEME_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

// What a scheme wants to know of the inputs that its matrix multiplies, a row of `cols` floats for
// every token of a calibration text. Nothing by default.
struct InputNeeds {
  bool importance = false;      // the mean square of every column
  bool mean_magnitude = false;  // the mean |x| of every column
  bool range = false;           // the least and the greatest value of every column
  bool extremes = false;        // the least and the greatest value of every sequence
  bool gram = false;            // the sum over the tokens of x x^T; GPTQ's Hessian but for a factor
  int64_t sample_rows = 0;      // at most that many tokens' inputs, evenly spread
  bool optional = false;        // it also does without

  bool any() const {
    return importance || mean_magnitude || range || extremes || gram || sample_rows > 0;
  }
  // Without them there is nothing to quantize by.
  bool required() const { return any() && !optional; }
};

// What a solver that works for seconds shares with the job that it is part of.
struct SolverControl {
  // Ask every some milliseconds; when true, return CANCELLED. May be empty.
  StopRequest stopped;
  // For the report, in words that need no context but the matrix: "damping raised to 0.06".
  std::vector<std::string> warnings;
};

// Statistics of a linear's inputs, for calibrated solvers and importance matrices. What was not
// asked for is empty.
struct InputStats {
  std::span<const float> importance;      // [cols] mean of squared inputs
  std::span<const float> mean_magnitude;  // [cols] mean of |x|
  std::span<const float> minimum;         // [cols]
  std::span<const float> maximum;         // [cols]
  std::span<const float> least;           // [sequences], in their order
  std::span<const float> greatest;        // [sequences]
  std::span<const float> gram;            // [cols, cols] sum of x x^T, symmetric
  std::span<const float> samples;         // [at most sample_rows, cols] inputs, in their order
  int64_t tokens = 0;                     // that the statistics were taken over
  SolverControl* control = nullptr;       // null: nobody listens

  bool stopped() const { return control != nullptr && control->stopped && control->stopped(); }
  void Warn(std::string text) const {
    if (control != nullptr) control->warnings.push_back(std::move(text));
  }
};

// What a solver that gets these statistics, or none, asks whether to go on. `stats` outlives it.
inline StopRequest StopOf(const InputStats* stats) {
  if (stats == nullptr || stats->control == nullptr) return {};
  return [stats] { return stats->stopped(); };
}

class Scheme {
 public:
  virtual ~Scheme() = default;

  // "int4 group 128 symmetric", for reports.
  virtual std::string Describe() const = 0;

  // Whether a matrix of this shape can take the scheme. INVALID_ARGUMENT says why not and what is
  // allowed (for example a group size that does not divide the columns).
  virtual absl::Status CheckShape(int64_t rows, int64_t cols) const = 0;

  // What Quantize wants in its `stats`.
  virtual InputNeeds Needs() const { return {}; }

  // Whether Quantize takes float32, float16 and bfloat16 for the dtype that upstream would see, and
  // rounds what it reads to that itself: a conversion of the matrix before is work for nothing
  // then.
  virtual bool ConvertsItself() const { return false; }

  // Quantizes `weight` [rows, cols], a finite float matrix in the dtype that upstream would see.
  // `stats` may be null, and hold less than Needs when those are optional. Deterministic: same
  // bytes for any number of threads and any ISA. CANCELLED when `stats` says to stop.
  virtual absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                                   const InputStats* stats) const = 0;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SCHEME_H_
