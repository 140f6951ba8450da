// Reading a checkpoint's parameters with everything checked: names, shapes, dtypes, finiteness.
#ifndef QUANTD_MODELS_PARAMETERS_H_
#define QUANTD_MODELS_PARAMETERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "core/tensor.h"
#include "kernels/backend.h"
#include "quantizers/model_source.h"

namespace quantd {

// A parameter that an architecture computes with.
struct ParameterSpec {
  std::string name;
  Shape shape;            // [out, in] of a matrix, [n] of a vector
  bool optional = false;  // used when the checkpoint has it (biases)
};

// What one architecture expects of a checkpoint.
struct ParameterList {
  std::vector<ParameterSpec> used;
  // Parameters that may be there and are not computed with, by a part of their name:
  // ".rotary_emb.", "pooler.". Everything else that is not `used` is refused, never silently
  // dropped.
  std::vector<std::string> ignored;
};

// INVALID_ARGUMENT naming the first tensor that is missing, has another shape or an integer dtype,
// or that the architecture does not have. Reads no tensor data.
absl::Status CheckParameters(const ModelSource& source, const ParameterList& expected);

// CheckParameters against what the architecture that the source's config names expects.
absl::Status CheckCheckpoint(const ModelSource& source);

// The matrix `name`, [rows, cols]. INVALID_ARGUMENT naming it when a weight or scale is NaN or
// infinite, or when what was read has another shape than announced.
absl::StatusOr<Weight> ReadMatrix(const ModelSource& source, absl::string_view name, int64_t rows,
                                  int64_t cols);

// The vector `name` of `size` floats, finite.
absl::StatusOr<std::vector<float>> ReadVector(const ModelSource& source, absl::string_view name,
                                              int64_t size);

}  // namespace quantd

#endif  // QUANTD_MODELS_PARAMETERS_H_
