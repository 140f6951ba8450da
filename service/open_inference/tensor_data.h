// Tensors of the Open Inference Protocol: typed or raw contents in, raw contents out.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_TENSOR_DATA_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_TENSOR_DATA_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "inference/grpc_service.pb.h"

namespace quantd {

// One input of a request, checked: datatype known, shape positive with a product that does not
// overflow, and exactly as much data as the shape says.
struct InputTensor {
  std::string name;
  std::string datatype;  // "INT64", "BYTES", ...
  std::vector<int64_t> shape;
  int64_t elements = 0;
  const std::string* raw = nullptr;  // null: typed contents
  const inference::InferTensorContents* contents = nullptr;
};

// INVALID_ARGUMENT about an input.
absl::Status InputError(absl::string_view name, absl::string_view what);

// Pairs the request's inputs with their data. INVALID_ARGUMENT names tensor, found and expected.
// The result points into the request.
absl::StatusOr<std::map<std::string, InputTensor>> BindInputs(
    const inference::ModelInferRequest& request);

// Values of an integer tensor (INT8..INT64, UINT8..UINT64), row-major. INVALID_ARGUMENT for another
// datatype, or a UINT64 past the range of int64.
absl::StatusOr<std::vector<int64_t>> Integers(const InputTensor& tensor);
// Elements of a BYTES tensor.
absl::StatusOr<std::vector<std::string>> Strings(const InputTensor& tensor);
// The single element of a BOOL tensor.
absl::StatusOr<bool> SingleBool(const InputTensor& tensor);

// Appends an output with its raw contents. Sizes fit: the caller computed both.
void AddFloats(const std::string& name, const std::vector<int64_t>& shape,
               std::span<const float> values, inference::ModelInferResponse& out);
void AddStrings(const std::string& name, const std::vector<int64_t>& shape,
                std::span<const std::string> values, inference::ModelInferResponse& out);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_TENSOR_DATA_H_
