#include "quantizers/solvers/activation_range.h"

#include <algorithm>
#include <vector>

#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

using Kind = RangeObserver::Kind;

template <class A>
float Average(std::span<const float> values, double constant) {
  const float kept = static_cast<float>(1.0 - constant), added = static_cast<float>(constant);
  float average = A::Round(values[0]);
  for (const float value : values.subspan(1)) {
    average = A::Round(A::Round(average * kept) + A::Round(A::Round(value) * added));
  }
  return average;
}

}  // namespace

absl::StatusOr<Tensor> ObservedRange(const InputStats* stats, const RangeObserver& observer,
                                     DType dtype) {
  if (stats == nullptr || stats->least.empty() || stats->least.size() != stats->greatest.size()) {
    return absl::InvalidArgumentError(
        "static scales of activations are found of inputs of the layer: give calibration data");
  }
  std::vector<float> range(2);
  const bool last = observer.kind == Kind::kLast || observer.averaging_constant == 1.0;
  if (observer.kind == Kind::kAll) {
    range = {*std::min_element(stats->least.begin(), stats->least.end()),
             *std::max_element(stats->greatest.begin(), stats->greatest.end())};
  } else if (last) {
    range = {stats->least.back(), stats->greatest.back()};
  } else {
    WithArithmetic(dtype, [&](auto arithmetic) {
      using A = decltype(arithmetic);
      range = {Average<A>(stats->least, observer.averaging_constant),
               Average<A>(stats->greatest, observer.averaging_constant)};
    });
  }
  return ConvertTensor(TensorOf<float>(DType::kF32, {1, 2}, range), dtype);
}

}  // namespace quantd
