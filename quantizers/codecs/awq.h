// AWQ checkpoints as AutoAWQ 0.2.9, GPTQModel 7.7 and auto-round 0.16 (auto_awq) write them:
// qweight, qzeros and scales of each Linear in the layout that `version` names.
#ifndef QUANTD_QUANTIZERS_CODECS_AWQ_H_
#define QUANTD_QUANTIZERS_CODECS_AWQ_H_

#include "quantizers/codecs/awq_config.h"
#include "quantizers/codecs/codec.h"

namespace quantd {

// Notes on a matrix what Encode needs: its layout, and whether gemm interleaves its columns.
// Codes are unsigned with integer zero points, but for marlin signed without, and for gemv_fast
// with offsets in place of zero points.
void MarkAwq(AwqVersion version, bool interleaved, QuantizedTensor* weight);

// Gives a matrix of 4-bit codes, or of any width for gemm, with integer zero points (signed codes
// without, when symmetric) the form that a layout stores, and marks it: marlin keeps signed codes,
// gemm and gemv get the zero point in the middle, gemv_fast offsets -(scale * zero) in float16.
void SpellAwq(AwqVersion version, QuantizedTensor* weight);

// Whether a layout holds matrices [rows, cols] of `bits` in groups of `group_size` (not -1).
// INVALID_ARGUMENT says which size must be a multiple of what.
absl::Status CheckAwqShape(AwqVersion version, bool interleaved, int bits, int64_t group_size,
                           int64_t rows, int64_t cols);

class AwqCodec : public Codec {
 public:
  explicit AwqCodec(AwqConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "awq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 3; }

 private:
  AwqConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AWQ_H_
