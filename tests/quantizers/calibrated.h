// Calibrated quantization of one golden matrix, and tensors that are spoilt in one way.
#ifndef QUANTD_TESTS_QUANTIZERS_CALIBRATED_H_
#define QUANTD_TESTS_QUANTIZERS_CALIBRATED_H_

#include <functional>
#include <string>
#include <vector>

#include "tests/quantizers/golden.h"

namespace quantd {

// The sum of x x^T over the rows of `inputs` [tokens, cols].
std::vector<float> GramOf(const Tensor& inputs);
// tr(E gram E^T) / tr(W gram W^T) with E = values - W.
double LayerError(const std::vector<float>& values, const Tensor& weight,
                  const std::vector<float>& gram);
// By the recipe's scheme for a layer of a decoder; the test fails on an error.
QuantizedTensor QuantizeWithGram(const Recipe& recipe, const Tensor& weight,
                                 const std::vector<float>& gram, int64_t tokens);
// CANCELLED when the job says stop at once.
absl::Status QuantizeStopped(const Recipe& recipe, const Tensor& weight,
                             const std::vector<float>& gram);

struct Spoilt {
  const char* what;
  std::function<void(TensorMap&)> spoil;
  std::string message;  // part of the refusal
};
// Every case is refused with INVALID_ARGUMENT naming the module.
void CheckSpoiltAreRefused(const Codec& codec, const TensorMap& good,
                           const std::vector<Spoilt>& cases);
std::function<void(TensorMap&)> Without(const std::string& name);
std::function<void(TensorMap&)> Zeros(const std::string& name, DType dtype, Shape shape);
// Overwrites element `index` with `value`'s bytes.
template <class T>
std::function<void(TensorMap&)> SetElement(const std::string& name, int64_t index, T value) {
  return [=](TensorMap& tensors) {
    std::memcpy(tensors[name].bytes.data() + index * sizeof(T), &value, sizeof(T));
  };
}

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_CALIBRATED_H_
