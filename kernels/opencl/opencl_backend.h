// The class behind CreateOpenClBackend, for its own files and its tests.
#ifndef QUANTD_KERNELS_OPENCL_OPENCL_BACKEND_H_
#define QUANTD_KERNELS_OPENCL_OPENCL_BACKEND_H_

#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/opencl/buffer.h"
#include "kernels/opencl/program_cache.h"
#include "kernels/opencl/weights.h"

namespace quantd::opencl {

// Weights stay packed in Compute::kFast, activations are float32 everywhere (never rounded); sums
// are in float32. Operations only submit work; Download (and the small copies of Embed and
// GatherRows) wait. Work buffers are kept between calls and grow to the largest need.
class OpenClBackend final : public Backend {
 public:
  // `id` as in ListOpenClDevices. Limits in `device` (work-group size, memory) are obeyed, so a
  // test can lower them.
  static absl::StatusOr<std::unique_ptr<OpenClBackend>> Create(const Device& device,
                                                               std::string id);

  DeviceInfo info() const override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(std::span<const Weight* const> parts,
                                                     const PackOptions& options) override;
  absl::StatusOr<std::unique_ptr<DeviceArray>> Allocate(int64_t rows, int64_t cols) override;
  absl::StatusOr<std::unique_ptr<ColumnOrder>> UploadOrder(std::span<const int32_t> order) override;
  absl::StatusOr<std::unique_ptr<KvCache>> CreateKvCache(const KvShape& shape) override;
  absl::Status Upload(std::span<const float> values, DeviceArray& to) override;
  absl::Status Download(const DeviceArray& from, int64_t first, int64_t count,
                        std::span<float> out) override;
  absl::Status Embed(const PackedWeight& table, std::span<const int32_t> ids,
                     DeviceArray& y) override;
  absl::Status Linear(const LinearArgs& args) override;
  absl::Status Attention(const AttentionArgs& args) override;
  absl::Status Normalize(const DeviceArray& x, const DeviceArray* residual, const Norm& norm,
                         int64_t tokens, DeviceArray& y) override;
  absl::Status RoundInputs(const DeviceArray& x, const InputRounding& rounding, int64_t tokens,
                           DeviceArray& y) override;
  absl::Status RotateInputs(const DeviceArray& x, const DeviceArray& matrix, int64_t tokens,
                            DeviceArray& y) override;
  absl::Status SiluMul(const DeviceArray& stacked, int64_t tokens, DeviceArray& y) override;
  absl::Status GatherRows(const DeviceArray& x, std::span<const int32_t> rows,
                          DeviceArray& y) override;

 private:
  enum Scratch {
    kNormed,
    kOrdered,
    kTokenSteps,
    kStacked,
    kQueries,
    kKeys,
    kValues,
    kIndexes,
    kHeadFactors,
    kScratchCount
  };
  // Where a matrix product goes and what is added on the way.
  struct Output {
    const DeviceArray* bias = nullptr;
    Activation activation = Activation::kNone;
    const DeviceArray* residual = nullptr;
    cl_mem y = nullptr;
    int64_t y_stride = 0;
    int64_t first_row = 0;  // of the matrix in y's columns
    const DeviceArray* divisor = nullptr;
    cl_mem token_steps = nullptr;
  };

  OpenClBackend(Queue queue, std::string id);

  // A work buffer of at least `bytes`; its old content may be gone.
  absl::StatusOr<cl_mem> ScratchBuffer(Scratch which, uint64_t bytes);
  absl::StatusOr<cl_mem> UploadIndexes(std::span<const int32_t> indexes);

  // With `token_steps`, int8 tokens are counts of steps, else values.
  absl::Status RunNorm(const DeviceArray& x, const DeviceArray* residual, const Norm& norm,
                       bool int8_tokens, int64_t tokens, cl_mem y, cl_mem token_steps = nullptr);
  // Norm and steps of the inputs, if there are any, in a work buffer; else x's own.
  absl::StatusOr<cl_mem> PrepareInputs(const LinearArgs& args, cl_mem* token_steps);
  // y = x [tokens, cols] times the multiplier, rotated; y may be x.
  absl::Status ScaleAndRotate(const InputSteps& steps, cl_mem x, int64_t cols, int64_t tokens,
                              cl_mem y);
  // The columns of x [tokens, cols] in an order, in a work buffer.
  absl::StatusOr<cl_mem> GatherColumns(cl_mem x, const ColumnOrder& order, int64_t tokens);
  absl::Status RunSegment(const Segment& segment, int64_t cols, cl_mem x, int64_t tokens,
                          const Output& output);
  absl::Status RoundToFp4(const DeviceArray& x, const Fp4Blocks& blocks, int64_t tokens,
                          DeviceArray& y);
  absl::Status RunSiluMul(cl_mem stacked, const DeviceArray* residual, int64_t tokens,
                          DeviceArray& y);
  absl::Status AttendSequence(const AttentionArgs& args, const SequenceRows& sequence);
  // Norms, rotates and scales q, and writes the cache.
  absl::Status RunStore(const AttentionArgs& args, const SequenceRows& sequence, cl_mem q,
                        cl_mem keys, cl_mem values, int capacity);
  // What the norm multiplies every head by, in a work buffer.
  absl::StatusOr<cl_mem> RunHeadFactors(const AttentionArgs& args, const SequenceRows& sequence);
  absl::Status RunAttend(const AttentionArgs& args, const SequenceRows& sequence, cl_mem q,
                         cl_mem keys, cl_mem values, int capacity);

  Queue queue_;
  ProgramCache programs_;
  std::string id_;
  std::array<Buffer, kScratchCount> scratch_;
};

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_OPENCL_BACKEND_H_
