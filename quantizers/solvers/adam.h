// Adam (Kingma & Ba 2015, arXiv:1412.6980; torch.optim.Adam 2.x), parameter by parameter.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ADAM_H_
#define QUANTD_QUANTIZERS_SOLVERS_ADAM_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace quantd {

struct AdamSpec {
  float lr = 1e-3f;
  double beta1 = 0.9;  // each 0 to below 1
  double beta2 = 0.999;
  bool amsgrad = false;
};

class Adam {
 public:
  Adam(size_t count, const AdamSpec& spec)
      : spec_(spec),
        mean_(spec.beta1 > 0 ? count : 0),
        square_(count),
        largest_(spec.amsgrad ? count : 0) {}

  // Begins a step; then Update may be called for every parameter, in any order and on any thread.
  // One that is left out stays where it is.
  void Begin() {
    remaining1_ *= spec_.beta1;
    remaining2_ *= spec_.beta2;
    rate_ = static_cast<float>(spec_.lr / (1 - remaining1_));
    correction_ = static_cast<float>(std::sqrt(1 - remaining2_));
  }

  void Update(size_t i, float gradient, float* parameter) {
    const auto keep = static_cast<float>(spec_.beta2), take = static_cast<float>(1 - spec_.beta2);
    square_[i] = keep * square_[i] + take * gradient * gradient;
    float square = square_[i];
    if (spec_.amsgrad) square = largest_[i] = std::max(largest_[i], square);
    if (spec_.beta1 > 0) {
      gradient = mean_[i] += static_cast<float>(1 - spec_.beta1) * (gradient - mean_[i]);
    }
    *parameter -= rate_ * gradient / (std::sqrt(square) / correction_ + 1e-8f);
  }

 private:
  const AdamSpec spec_;
  double remaining1_ = 1, remaining2_ = 1;  // beta^steps
  float rate_ = 0, correction_ = 1;
  std::vector<float> mean_, square_, largest_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ADAM_H_
