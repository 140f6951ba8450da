// One decoder or encoder block on its calibration inputs, as calibrated solvers see it. Solvers
// that fit one matrix at a time need only InputStats (scheme.h); those that search over a whole
// block (AWQ, AutoRound, AQLM) get this. models/ implements it.
#ifndef QUANTD_QUANTIZERS_CALIBRATED_BLOCK_H_
#define QUANTD_QUANTIZERS_CALIBRATED_BLOCK_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "core/float_buffer.h"
#include "core/parallel.h"
#include "core/quantized_tensor.h"
#include "core/status.h"
#include "kernels/rounded_product.h"
#include "quantizers/scheme.h"
#include "quantizers/sequence_store.h"

namespace quantd {

class ProductDevice;  // kernels/product_device.h

// Places in a block, in the order of the computation. Widths: hidden size, but for kAttended
// (heads * head_dim) and kMlpHidden (intermediate size).
enum class BlockValue {
  kInput,            // hidden states that enter the block
  kAttentionInput,   // what q, k and v multiply: the normed input (decoders), the input (encoders)
  kAttended,         // what o multiplies
  kAttentionOutput,  // of o, before the residual
  kAfterAttention,   // the input plus that: what the norm before the MLP reads
  kMlpInput,         // what gate and up multiply
  kMlpHidden,        // what down multiplies
  kMlpOutput,        // of down, before the residual
  kOutput,           // hidden states that leave the block
};
inline constexpr int kBlockValues = 9;

// The values of one sequence that a run computed, float32 [tokens, width].
struct BlockPass {
  int64_t tokens = 0;
  std::array<FloatBuffer, kBlockValues> values;  // by BlockValue; empty: not computed
  // For Backward: q and k after the rotation, v, the two numbers that make attention's weights of
  // its scores [heads, tokens, 2], gate and up before the activation (gate is the only one of
  // encoders), and what the last norm of encoders reads.
  FloatBuffer q, k, v, softmax, gate, up, after_mlp;
  FloatBuffer raw_q, raw_k;  // what norms of heads read, where there are such

  FloatBuffer& operator[](BlockValue value) { return values[static_cast<size_t>(value)]; }
  const FloatBuffer& operator[](BlockValue value) const {
    return values[static_cast<size_t>(value)];
  }
};

struct BlockLinear {
  std::string module;  // "model.layers.3.self_attn.q_proj"
  int64_t rows = 0;
  int64_t cols = 0;
  BlockValue input = BlockValue::kInput;  // what it multiplies; linears of one input are a stage
};

// Sums of d loss / d parameter over the calls of Backward, as large as the parameter: of weights by
// module (linears and norms), of biases by the module and ".bias".
using BlockGradients = std::map<std::string, FloatBuffer>;

// The hidden states that enter a block.
class BlockInputs {
 public:
  virtual ~BlockInputs() = default;
  virtual int64_t sequences() const = 0;
  virtual int64_t tokens(int64_t sequence) const = 0;
  // [tokens, hidden]. `original`: as they are in the model that nothing was quantized in (only
  // where the recipe asks for both).
  virtual absl::StatusOr<FloatBuffer> Read(int64_t sequence, bool original = false) const = 0;
  // Room for values of every sequence. No two at a time of one name.
  virtual SequenceStore Store(const std::string& name,
                              uint64_t memory_bytes = SequenceStore::kMemoryBytes) const = 0;
  // What the original block makes of Read(sequence), of the original inputs where the recipe asks
  // for both, [tokens, hidden]: for a BlockTuner, and for others where it is at hand anyway.
  virtual bool has_targets() const = 0;
  virtual absl::StatusOr<FloatBuffer> ReadTarget(int64_t sequence) const = 0;
};

// What a block's products round their operands to; none: float32.
struct BlockRounding {
  std::optional<ProductRounding> linears;
  std::optional<ProductRounding> attention;  // its scores, and values under their weights

  static BlockRounding Everywhere(std::optional<ProductRounding> rounding) {
    return {rounding, rounding};
  }
};

class CalibratedBlock {
 public:
  virtual ~CalibratedBlock() = default;
  virtual bool is_encoder() const = 0;
  // In the order of the computation: q, k, v (or the one matrix of them); o; gate, up; down.
  virtual const std::vector<BlockLinear>& linears() const = 0;
  // Full names of the norms.
  virtual std::vector<std::string> norms() const = 0;

  // The parameter of that full name ("model.layers.3.input_layernorm.weight", any weight or bias of
  // a linear) in float32, row-major; empty when the block has none. Runs use what is written there,
  // and what it holds when the solver is done goes on: parameters that are not quantized are
  // written as they then are, rounded to the dtype they are kept in. The next run may lay a weight
  // out, or send it to a device: what is written to it after that needs Parameter again.
  virtual std::span<float> Parameter(absl::string_view name) = 0;

  // Computes the values after `from`, whose values [tokens, width] are given, up to and including
  // `until`. `from` is kInput, or kAttentionInput, kAttended, kMlpInput or kMlpHidden with an
  // `until` before the next residual: the search over one half of the block. A sequence's result
  // depends on nothing but the arguments and the parameters.
  virtual BlockPass Run(BlockValue from, std::span<const float> values, BlockValue until) = 0;
  // Goes on with a pass that holds what Run starts from, or the latest of kInput, kAttended (with
  // kInput), kAfterAttention and kMlpHidden (with kAfterAttention) that was computed: the same bits
  // as the whole run gives. What it holds must be of the parameters as they are; the vectors of
  // what it lacks are empty, their memory is used.
  virtual void Continue(BlockPass& pass, BlockValue until) = 0;
  // How the values at `until` change when weights change a little, [tokens, width]: the linears
  // that read `from` hold the changes of their weights, everything else what it held when
  // `reference` ran in float32. `from` is kAttentionInput or kAttended with an `until` of
  // kAttentionOutput, or kMlpInput or kMlpHidden with kMlpOutput; `reference` holds the values at
  // `from` and what the run computed on its way: q, k, v, raw_q, raw_k, kAttended; gate and up.
  // Linears multiply nothing but changes, of which rounding (SetRounding) takes a small part, where
  // it takes as much of whole values.
  virtual void Change(const BlockPass& reference, BlockValue from, BlockValue until,
                      FloatBuffer& change) = 0;

  // From now on products round so, forward and backward; at first none does. For training by the
  // signs of gradients, and for ranking: many times as fast on many processors, the same bits on
  // all.
  virtual void SetRounding(const BlockRounding& rounding) = 0;

  // That multiplies float32; null: the CPU.
  virtual ProductDevice* device() const { return nullptr; }
  // Several runs, and what is done between them, as one task of the compute thread; where products
  // wait for a device, which that thread must not, on the calling one.
  void InOneTask(absl::FunctionRef<void()> body) const {
    if (device() != nullptr) {
      body();
    } else {
      RunBackground(body);
    }
  }

  // Adds the gradients of a loss whose gradient by kOutput is `output`, [tokens, hidden], for every
  // parameter that `gradients` has an entry for, an empty one if there are none yet. `pass` ran
  // from kInput to kOutput with the parameters as they are. `more`: another call with the same
  // `gradients` follows; sums may wait for the last one.
  virtual void Backward(const BlockPass& pass, FloatBuffer output, BlockGradients& gradients,
                        bool more) = 0;
};

// Chooses what the linears of a block become, all at once.
class BlockSolver {
 public:
  virtual ~BlockSolver() = default;
  // `schemes` are those of the linears that the recipe quantizes, by module. Returns their
  // matrices. Other parameters may be changed in place (norms and earlier rows that take a channel
  // scale). Same bytes for any number of threads and any ISA. CANCELLED when `control` says stop.
  virtual absl::StatusOr<std::map<std::string, QuantizedTensor>> Solve(
      CalibratedBlock& block, const BlockInputs& inputs,
      const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const = 0;
  // Whether Solve leaves in the block what it quantized, the weights with channel scales folded in;
  // false: it quantized them as they were.
  virtual bool rescales() const { return false; }
};

// Trains a block whose linears were quantized one by one, so that its outputs come nearer to those
// of the original.
class BlockTuner {
 public:
  virtual ~BlockTuner() = default;
  // `matrices`, by module, are what the block's parameters hold, dequantized; changed in place, as
  // may be parameters that are not quantized. The block need not hold the changed matrices at the
  // end. Same bytes for any number of threads and any ISA. CANCELLED when `control` says stop.
  virtual absl::Status Tune(CalibratedBlock& block, const BlockInputs& inputs,
                            std::map<std::string, QuantizedTensor>& matrices,
                            SolverControl& control) const = 0;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CALIBRATED_BLOCK_H_
