// Random weights of every kind, plain reference arithmetic, and backends on a chosen instruction
// set.
#ifndef QUANTD_TESTS_KERNELS_TESTING_H_
#define QUANTD_TESTS_KERNELS_TESTING_H_

#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/random_floats.h"

namespace quantd::testing {

// Sets an environment variable while it lives.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const std::string& value);
  ~ScopedEnvironment();

 private:
  const char* name_;
  std::string before_;
  bool had_;
};

// Names of the instruction sets of this machine, "scalar" among them.
std::vector<std::string> SupportedIsas();
std::unique_ptr<Backend> BackendOn(const std::string& isa);

// One way of quantizing, as a checkpoint could hold it.
struct WeightKind {
  std::string name;
  Layout layout;  // expected from Compute::kFast
  std::function<Weight(int64_t rows, int64_t cols, uint32_t seed)> make;
};
std::vector<WeightKind> WeightKinds();

// The matrix in the order of the codes' columns.
std::vector<float> DenseOf(const Weight& weight);

// y = x W^T in double: [tokens, rows].
std::vector<double> MatMul(const std::vector<float>& x, const std::vector<float>& w, int64_t tokens,
                           int64_t rows, int64_t cols);

// sqrt(sum (a-b)^2 / sum b^2).
double RelativeError(const std::vector<float>& found, const std::vector<double>& expected);

std::unique_ptr<DeviceArray> ArrayOf(Backend& backend, int64_t rows, int64_t cols,
                                     const std::vector<float>& values);
std::vector<float> Read(Backend& backend, const DeviceArray& array);
std::unique_ptr<PackedWeight> PackOne(Backend& backend, const Weight& weight,
                                      Compute compute = Compute::kFast);

// Linear of `tokens` rows `x`, with what else `args` says.
std::vector<float> RunLinear(Backend& backend, const PackedWeight& weight,
                             const std::vector<float>& x, int64_t tokens, LinearArgs args = {});

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_KERNELS_TESTING_H_
