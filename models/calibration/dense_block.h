// A decoder or encoder block in plain float32, forward and backward: what calibrated solvers search
// over. The same computation as architectures/decoder.cc and encoder.cc make of packed weights,
// with every value at hand and the same bits on every machine.
#ifndef QUANTD_MODELS_CALIBRATION_DENSE_BLOCK_H_
#define QUANTD_MODELS_CALIBRATION_DENSE_BLOCK_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "formats/model_config.h"
#include "kernels/matrix_product.h"
#include "models/calibration/attention.h"
#include "models/calibration/linear_products.h"
#include "models/calibration/row_math.h"
#include "quantizers/calibrated_block.h"

namespace quantd::calibration {

// Modules of a block, full names: one for each of q, k and v, or one with the rows of all, and so
// for gate and up. Encoders have one matrix before the activation.
struct BlockNames {
  std::vector<std::string> qkv;
  std::string o;
  std::vector<std::string> gate_up;
  std::string down, attention_norm, mlp_norm;
  std::string q_norm, k_norm;  // of heads; or empty
};
BlockNames NamesOf(const ModelConfig& config, const std::string& prefix);
// The linears among them with their shapes, in the order of the computation.
std::vector<BlockLinear> LinearsOf(const ModelConfig& config, const BlockNames& names);

class DenseBlock final : public CalibratedBlock {
 public:
  // Parameters by full name, float32, as large as the config says: weights of all linears and
  // norms, biases that there are. `rope`, the table of the positions, outlives this; null for
  // encoders. When `stopped` says so, runs end soon, with values that mean nothing. `device`
  // multiplies by the linears in float32, and outlives this; null: the CPU.
  DenseBlock(const ModelConfig& config, BlockNames names,
             std::map<std::string, std::vector<float>> parameters, const std::vector<float>* rope,
             std::function<bool()> stopped = {}, ProductDevice* device = nullptr);

  bool is_encoder() const override { return config_.is_encoder(); }
  const std::vector<BlockLinear>& linears() const override { return linears_; }
  std::vector<std::string> norms() const override;
  std::span<float> Parameter(absl::string_view name) override;
  BlockPass Run(BlockValue from, std::span<const float> values, BlockValue until) override;
  void Continue(BlockPass& pass, BlockValue until) override;
  void Change(const BlockPass& reference, BlockValue from, BlockValue until,
              FloatBuffer& change) override;
  void SetRounding(const BlockRounding& rounding) override;
  ProductDevice* device() const override { return device_; }
  void Backward(const BlockPass& pass, FloatBuffer output, BlockGradients& gradients,
                bool more) override;

 private:
  // Work of many short loops, on the compute thread, which must not wait for a device.
  void Work(absl::FunctionRef<void()> body) const;
  int64_t WidthOf(BlockValue value) const;
  const float* Find(const std::string& module, const char* local) const;
  LinearWeight WeightOf(const std::string& module) const;
  // y [tokens, rows of the module] = x W^T, and of values, not changes, + bias.
  enum class Of { kValues, kChanges };
  void Apply(const std::string& module, TokenOperand& x, Of of, FloatBuffer& y);
  // The outputs of modules that read `x`, and how wide each of them is in a token. Of one module
  // with the rows of several, they are its columns.
  struct Part {
    FloatBuffer& values;
    int64_t width;
  };
  std::vector<Part> QkvParts(FloatBuffer& q, FloatBuffer& k, FloatBuffer& v) const;
  std::vector<Part> GateUpParts(FloatBuffer& gate, FloatBuffer& up) const;
  void ApplyAll(const std::vector<std::string>& modules, TokenOperand& x, Of of,
                const std::vector<Part>& parts);
  // y = norm(x), rows as wide as the norm.
  void Normalize(const std::string& module, const FloatBuffer& x, FloatBuffer& y) const;
  // `heads` becomes norm(heads), `raw` what it was; nothing without such a norm.
  void NormalizeHeads(const std::string& module, FloatBuffer& raw, FloatBuffer& heads) const;
  void AttentionPart(BlockPass& pass, BlockValue until);
  void MlpPart(BlockPass& pass, BlockValue until);
  void MlpActivation(BlockPass& pass);

  // What o and down read changes by, in d_hidden_.
  void AttendedChange(const BlockPass& reference);
  void MlpHiddenChange(const BlockPass& reference);
  // `change` of q or k becomes what it makes of the reference's.
  void ChangeHeads(const std::string& norm, const FloatBuffer& raw, const FloatBuffer& rotated,
                   int64_t heads, int64_t tokens, FloatBuffer& change) const;

  // The gradients of a linear's weight and bias from its outputs' `dy`, where asked for.
  void AddLinearGradients(const std::string& module, TokenOperand& x, TokenOperand& dy,
                          BlockGradients& gradients);
  // The gradients of a norm's parameters from its outputs' `dy`, where asked for.
  void AddNormParameters(const std::string& module, const FloatBuffer& x, const FloatBuffer& dy,
                         BlockGradients& gradients) const;
  void AddNormGradients(const std::string& module, const FloatBuffer& x, const FloatBuffer& dy,
                        FloatBuffer& dx) const;
  // From the gradient by NormalizeHeads' outputs to that by its inputs, in place.
  void HeadNormBackward(const std::string& module, const FloatBuffer& raw, FloatBuffer& d_heads,
                        BlockGradients& gradients) const;
  // From the gradients of ApplyAll's outputs to those of parameters and, where `d_input` is not
  // null, of its inputs: set, or (`add`) added to.
  void BackwardAll(const std::vector<std::string>& modules, TokenOperand& x,
                   const std::vector<Part>& parts, bool add, float* d_input,
                   BlockGradients& gradients);
  // Backward, on the compute thread. `d_sum`, the gradient by kOutput and so by the second
  // residual's sum, which the MLP's output and its residual share, is used up.
  void BackwardInPlace(const BlockPass& pass, FloatBuffer& d_sum, BlockGradients& gradients);
  // From the gradient by kMlpOutput to that by kMlpInput, `d_input`: set, but added for encoders,
  // whose residual has begun it.
  void MlpBackward(const BlockPass& pass, const FloatBuffer& d_output, FloatBuffer& d_input,
                   BlockGradients& gradients);
  void AttentionBackward(const BlockPass& pass, const FloatBuffer& d_output,
                         BlockGradients& gradients);
  RowNormArgs NormArgs(const std::string& module) const;
  int64_t NormWidth(const std::string& module) const;

  const ModelConfig config_;
  const BlockNames names_;
  AttentionShape attention_;
  const Activation activation_;
  std::vector<BlockLinear> linears_;
  std::map<std::string, std::vector<float>> parameters_;
  const std::vector<float>* rope_;
  ProductDevice* const device_;
  LinearProducts products_;
  // What products read, and gradients on their way, whose memory every pass uses again.
  TokenOperand input_, hidden_, d_output_;
  FloatBuffer fused_, d_hidden_, d_gated_, d_q_, d_k_, d_v_;
  AttentionSums key_sums_;
};

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_DENSE_BLOCK_H_
