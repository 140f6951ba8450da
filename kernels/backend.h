// What a device can do with packed weights. Models are written once against this interface; the CPU
// and OpenCL backends implement it. It knows no file, no quantization method and no architecture.
//
// Operations are coarse, so that a backend may fuse what it likes: a decoder layer is five calls
// (norm+qkv, attention, output+residual, norm+gate/up+silu, down+residual).
//
// Activations are float32, row-major, one row per token. Operations may be asynchronous but run in
// order; Download waits. A backend is used by one thread at a time (the model's scheduler); the CPU
// backend's operations expect to run inside a RunCompute task.
#ifndef QUANTD_KERNELS_BACKEND_H_
#define QUANTD_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// How a matrix is tiled in memory for the kernels. Every method's weights take one of these.
enum class Layout { kDense, kInt8Row, kIntGroup, kLut4, kFp8, kVecLut };
absl::string_view LayoutName(Layout layout);

// The numerics contract: kExact dequantizes to float32 and accumulates in float32; kFast keeps the
// weights packed and may round activations to 15 bits per block of columns.
enum class Compute { kExact, kFast };

// A weight matrix [rows = out features, cols = in features] as a codec handed it over.
using Weight = std::variant<Tensor, QuantizedTensor>;  // Tensor: a float matrix
int64_t RowsOf(const Weight& weight);
int64_t ColsOf(const Weight& weight);

// A matrix in a backend's own tiling. Immutable.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual Layout layout() const = 0;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  virtual uint64_t bytes() const = 0;  // device memory held
};

// Activations or constants in device memory: `rows` x `cols` float32.
class DeviceArray {
 public:
  virtual ~DeviceArray() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
};

// Which input every column of a matrix multiplies, in device memory.
class ColumnOrder {
 public:
  virtual ~ColumnOrder() = default;
  virtual int64_t cols() const = 0;
};

struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int capacity = 0;                  // tokens
  Compute compute = Compute::kFast;  // kExact keeps float32
};

// Keys and values of one sequence, all layers. Written by Attention.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual const KvShape& shape() const = 0;
  virtual uint64_t bytes() const = 0;
};

// Consecutive rows of a batch that belong to one sequence.
struct SequenceRows {
  KvCache* cache = nullptr;  // null: the rows attend to each other only (encoders)
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t position =
      0;  // position of first_row in the sequence; keys 0..position-1 are in the cache
};

struct Norm {
  enum class Kind { kNone, kRms, kLayer };
  Kind kind = Kind::kNone;
  const DeviceArray* weight = nullptr;  // [1, width]
  const DeviceArray* bias = nullptr;    // [1, width], kLayer only
  float epsilon = 1e-5f;
};

enum class Activation {
  kNone,
  kSiluMul,  // the matrix stacks gate then up rows; y = silu(gate) * up, half as wide
  kGelu,     // exact (erf)
  kGeluTanh,
  kRelu,
  kSilu,
  kTanh,
};

// What a matrix asks of its inputs after the norm, in this order.
struct InputSteps {
  const DeviceArray* multiplier = nullptr;  // [1, W.cols]: inputs are multiplied by it; or null
  // Above 1: runs of so many inputs, a power of two that divides W.cols, are multiplied by the
  // normalized Hadamard matrix.
  int64_t hadamard_size = 0;
  // Of W.cols entries: column c of W multiplies input order[c]; or null.
  const ColumnOrder* order = nullptr;
  // Every token is rounded to whole 127ths of its largest magnitude, half to even (BitNet's
  // dynamic int8 inputs; magnitudes below 1e-5 count as that). Not after a multiplier,
  // rotation or order.
  bool int8_tokens = false;
  // [1, stack]; only with int8_tokens. Then tokens go in as those whole numbers, and the sum of a
  // row is divided by divisor[row] * (127 / largest magnitude): exact where W is whole too.
  const DeviceArray* int8_divisor = nullptr;
};

// y = activation( norm(x) W^T + bias ) + residual
//
// With `stack_rows`, W is only the rows [first_row, first_row + W.rows) of a stack of that many:
// bias, residual and y are as wide as the stack, and other columns of y stay as they are. Not with
// kSiluMul.
struct LinearArgs {
  const PackedWeight* weight = nullptr;
  const DeviceArray* bias = nullptr;  // [1, W.rows] or null
  Norm norm;                          // applied to x first
  InputSteps steps;                   // and then these
  const DeviceArray* x = nullptr;     // [>= tokens, W.cols]
  int64_t tokens = 0;
  Activation activation = Activation::kNone;
  const DeviceArray* residual = nullptr;  // [>= tokens, y.cols]; may be y itself
  DeviceArray* y = nullptr;               // [>= tokens, W.rows], half of it for kSiluMul
  int64_t first_row = 0;
  int64_t stack_rows = 0;  // 0: W is the whole stack
};

struct AttentionArgs {
  int layer = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 0;  // usually 1/sqrt(head_dim)
  bool causal = true;
  // [1, head_dim]: weights of an RMS norm of every head of q, and of k, before anything else. Both
  // or neither.
  const DeviceArray* q_norm = nullptr;
  const DeviceArray* k_norm = nullptr;
  float norm_epsilon = 0;
  // [max positions, n/2 cosines then n/2 sines]: the rotate-half form of RoPE on the first n <=
  // head_dim dimensions, applied to q and k before k enters the cache. Null: positions are not
  // rotated.
  const DeviceArray* rope = nullptr;
  const DeviceArray* qkv = nullptr;  // [tokens, (heads + 2 kv_heads) * head_dim]: q, then k, then v
  std::span<const SequenceRows> sequences;
  DeviceArray* out = nullptr;  // [tokens, heads * head_dim]
};

struct DeviceInfo {
  std::string id;           // "cpu", "opencl:0"
  std::string description;  // "AMD EPYC (avx512: vnni bf16), 2 threads"
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;  // 0: unknown
  bool is_gpu = false;      // what device "auto" looks for
};

struct PackOptions {
  Compute compute = Compute::kFast;
  bool pair_gate_up = false;  // two parts that an Activation::kSiluMul will combine
  bool round_inputs = false;  // as weights ask for (InputTransform::rounding); Linear does it
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual DeviceInfo info() const = 0;

  // Packs `parts`, matrices of equal cols, stacked by rows into one (q, k, v; gate, up). Parts may
  // differ in grid; then each keeps its own layout. RESOURCE_EXHAUSTED when memory does not
  // suffice.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(std::span<const Weight* const> parts,
                                                             const PackOptions& options) = 0;

  virtual absl::StatusOr<std::unique_ptr<DeviceArray>> Allocate(int64_t rows, int64_t cols) = 0;
  // INVALID_ARGUMENT unless every entry is from 0 to order.size() - 1.
  virtual absl::StatusOr<std::unique_ptr<ColumnOrder>> UploadOrder(
      std::span<const int32_t> order) = 0;
  virtual absl::StatusOr<std::unique_ptr<KvCache>> CreateKvCache(const KvShape& shape) = 0;
  virtual absl::Status Upload(std::span<const float> values, DeviceArray& to) = 0;
  // Rows [first, first + count) of `from` into `out` [count, from.cols()]; waits for pending work.
  virtual absl::Status Download(const DeviceArray& from, int64_t first, int64_t count,
                                std::span<float> out) = 0;

  // y[t] = row ids[t] of `table`, dequantized. `ids` are in range.
  virtual absl::Status Embed(const PackedWeight& table, std::span<const int32_t> ids,
                             DeviceArray& y) = 0;
  virtual absl::Status Linear(const LinearArgs& args) = 0;
  virtual absl::Status Attention(const AttentionArgs& args) = 0;
  // y = norm(x + residual), residual optional; y may be x.
  virtual absl::Status Normalize(const DeviceArray& x, const DeviceArray* residual,
                                 const Norm& norm, int64_t tokens, DeviceArray& y) = 0;
  // y = x rounded token by token as `rounding` says; y may be x.
  virtual absl::Status RoundInputs(const DeviceArray& x, const InputRounding& rounding,
                                   int64_t tokens, DeviceArray& y) = 0;
  // y[t] = x[t], each run of matrix.rows() values multiplied by `matrix`, which is square and whose
  // rows divide x.cols(); y is not x.
  virtual absl::Status RotateInputs(const DeviceArray& x, const DeviceArray& matrix, int64_t tokens,
                                    DeviceArray& y) = 0;
  // y = silu(gate) * up of `stacked` [>= tokens, gate then up], each as wide as y.
  virtual absl::Status SiluMul(const DeviceArray& stacked, int64_t tokens, DeviceArray& y) = 0;
  // y[i] = x[rows[i]]: picks the rows whose logits are wanted.
  virtual absl::Status GatherRows(const DeviceArray& x, std::span<const int32_t> rows,
                                  DeviceArray& y) = 0;
};

// What a backend's RotateInputs refuses.
absl::Status CheckRotation(const DeviceArray& x, const DeviceArray& matrix, int64_t tokens,
                           const DeviceArray& y);

// "cpu", "opencl" or "opencl:N". INVALID_ARGUMENT for another spelling, FAILED_PRECONDITION with
// the reason when the device is not there.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view device);
// Every device that CreateBackend would accept now.
std::vector<DeviceInfo> ListDevices();
// "auto" as the first OpenCL GPU, else "cpu"; other names as they are.
std::string ResolveDevice(const std::string& device);
// The number of an OpenCL device, nullopt for "cpu"; INVALID_ARGUMENT as in CreateBackend.
absl::StatusOr<std::optional<int>> OpenClNumber(absl::string_view device);

}  // namespace quantd

#endif  // QUANTD_KERNELS_BACKEND_H_
