// Sees what linear layers multiply; for calibration.
#ifndef QUANTD_MODELS_INPUT_OBSERVER_H_
#define QUANTD_MODELS_INPUT_OBSERVER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace quantd {

class InputObserver {
 public:
  virtual ~InputObserver() = default;
  // Called before each multiplication, from the thread that runs the model. `rows`, [tokens, cols]
  // and valid during the call, are the inputs, after the norm, of the stacked matrices of `modules`
  // ("model.layers.0.self_attn.q_proj", ...).
  virtual void Observe(const std::vector<std::string>& modules, std::span<const float> rows,
                       int64_t cols) = 0;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_INPUT_OBSERVER_H_
