// Reading and checking the tensors of one module, with errors that name module, tensor, found and
// expected. Shared by all codecs.
#ifndef QUANTD_QUANTIZERS_CODECS_STORED_TENSORS_H_
#define QUANTD_QUANTIZERS_CODECS_STORED_TENSORS_H_

#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quantizers/codecs/codec.h"

namespace quantd {

// "model.layers.0.mlp.down_proj.weight_scale", escaped and cut for messages.
std::string TensorPath(const ModuleTensors& tensors, absl::string_view local_name);

// INVALID_ARGUMENT "<path>: <problem>".
absl::Status TensorError(const ModuleTensors& tensors, absl::string_view local_name,
                         absl::string_view problem);

// The stored tensor, whose dtype is one of `dtypes` and whose shape is `shape` (any if nullopt).
// Checked before anything is read.
absl::StatusOr<Tensor> ReadTensor(const ModuleTensors& tensors, absl::string_view local_name,
                                  std::initializer_list<DType> dtypes,
                                  const std::optional<Shape>& shape);

// As ReadTensor, widened to float. INVALID_ARGUMENT names the first NaN or infinite element.
absl::StatusOr<std::vector<float>> ReadFiniteFloats(const ModuleTensors& tensors,
                                                    absl::string_view local_name,
                                                    std::initializer_list<DType> dtypes,
                                                    const std::optional<Shape>& shape);

// The shape of the matrix `local_name`. INVALID_ARGUMENT unless it has two dimensions, both
// positive, whose product is below 2^40.
absl::StatusOr<Shape> ReadMatrixShape(const ModuleTensors& tensors, absl::string_view local_name);
absl::Status CheckMatrixShape(const ModuleTensors& tensors, absl::string_view local_name,
                              const Shape& shape);

// Bytes of `tensor` as elements; `tensor` holds sizeof(T) bytes an element.
template <class T>
std::vector<T> Elements(const Tensor& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(T));
  return values;
}

// Codes as a tensor of the one-byte `dtype`, each with `first` added (modulo 256): -128 makes
// signed bytes of codes that count from the least.
Tensor CodeTensor(DType dtype, Shape shape, std::span<const uint8_t> codes, int first = 0);
// Floats as a tensor of the floating point `dtype`.
Tensor FloatTensor(DType dtype, Shape shape, const std::vector<float>& values);

// Small tensors that mean nothing to the matrix but must survive, kept as text in
// QuantizedTensor::attributes under "tensor:<local name>".
void KeepTensor(absl::string_view local_name, const Tensor& tensor,
                std::map<std::string, std::string>* attributes);
// All kept ones, in the order of their names.
std::vector<NamedTensor> KeptTensors(const std::map<std::string, std::string>& attributes);

// The value of `key` or INVALID_ARGUMENT saying that `codec` did not make this tensor.
absl::StatusOr<std::string> RequireAttribute(const QuantizedTensor& tensor, absl::string_view key,
                                             absl::string_view codec);
// The value of `key`, "" if absent.
std::string Attribute(const QuantizedTensor& tensor, absl::string_view key);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_STORED_TENSORS_H_
