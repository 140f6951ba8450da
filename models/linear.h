// A linear layer: one or more stacked matrices in a backend's packing, with what surrounds the
// multiplication (bias, input transform, outliers), written once for every method and architecture.
#ifndef QUANTD_MODELS_LINEAR_H_
#define QUANTD_MODELS_LINEAR_H_

#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "kernels/backend.h"
#include "models/input_observer.h"
#include "quantizers/model_source.h"

namespace quantd {

// Uploads `values` as one row of constants.
absl::StatusOr<std::unique_ptr<DeviceArray>> UploadRow(Backend& backend,
                                                       std::span<const float> values);

// FAILED_PRECONDITION for a load with PackOptions::round_inputs of a model that has none to round.
absl::Status NoInputRounding();

class Linear {
 public:
  // One matrix of the stack.
  struct Part {
    std::string module;  // "model.layers.0.self_attn.q_proj"; ".weight" and, if there, ".bias"
    int64_t rows = 0;
  };
  // Reads, checks and packs `parts`, one below the other, each [rows, cols]. Holds at most these
  // parts in memory besides their packed form.
  static absl::StatusOr<Linear> Load(const ModelSource& source, Backend& backend,
                                     const std::vector<Part>& parts, int64_t cols,
                                     const PackOptions& options);
  Linear() = default;

  // y = activation(norm(x) W^T + bias) + residual; `args` without weight and bias.
  absl::Status Apply(Backend& backend, LinearArgs args) const;

  // Whether it rounds inputs as its checkpoint asks for.
  bool rounds_inputs() const;

  // The packed matrices of the stack: one, unless parts treat their inputs in ways of their own.
  int64_t pieces() const { return static_cast<int64_t>(pieces_.size()); }
  const PackedWeight& weight(int64_t piece = 0) const { return *pieces_[piece].weight; }

  // From now on `observer`, which must outlive this and may be null, sees every input.
  void set_observer(InputObserver* observer) { observer_ = observer; }

 private:
  // Neighbouring parts that take the same inputs.
  struct Piece {
    std::unique_ptr<PackedWeight> weight;
    std::unique_ptr<DeviceArray> norm_weight;  // an RMS norm of its own, or null
    float norm_epsilon = 0;
    std::unique_ptr<DeviceArray> multiplier;  // InputSteps::multiplier, or null
    int64_t hadamard_size = 0;
    std::unique_ptr<ColumnOrder> order;  // InputSteps::order, or null
    bool int8_tokens = false;
    bool int8_counts = false;               // tokens go in as whole numbers, as the weights are
    std::unique_ptr<DeviceArray> rotation;  // InputTransform::rotation, or null; before the rest
    InputRounding rounding;                 // after `rotation`, before the others
    int64_t first_row = 0;
  };

  static absl::StatusOr<Piece> PackPiece(Backend& backend, const InputTransform& input,
                                         std::vector<Weight> weights, const PackOptions& options);
  InputSteps StepsOf(const Piece& piece) const;
  absl::Status ShowInputs(Backend& backend, const LinearArgs& args) const;
  absl::Status ApplyPiecewise(Backend& backend, const LinearArgs& args) const;
  absl::Status ApplyRounded(Backend& backend, const LinearArgs& args) const;
  // args.x, normed as args ask for, in normed_.
  absl::StatusOr<const DeviceArray*> Normed(Backend& backend, const LinearArgs& args) const;
  // `x` rotated and rounded as the piece's matrix takes it, in rotated_ or rounded_.
  absl::StatusOr<const DeviceArray*> Rounded(Backend& backend, const Piece& piece,
                                             const DeviceArray* x, const LinearArgs& args) const;

  std::vector<Piece> pieces_;
  int64_t rows_ = 0;
  std::unique_ptr<DeviceArray> bias_;
  std::unique_ptr<DeviceArray> int8_divisor_;  // of the rows of pieces with int8_counts, or null
  std::vector<std::string> modules_;
  InputObserver* observer_ = nullptr;
  // The inputs after the caller's norm, after a rotation, after rounding, and gate above up, where
  // a step of its own makes them. As tall as the tallest input so far; a model runs on one thread.
  mutable std::unique_ptr<DeviceArray> normed_, rotated_, rounded_, stacked_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_LINEAR_H_
