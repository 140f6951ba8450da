// AQLM layers as aqlm 1.1.7 stores them: every tile of out_group_size by in_group_size weights is a
// sum of one vector out of each codebook, scaled for each group of rows.
#ifndef QUANTD_QUANTIZERS_CODECS_AQLM_H_
#define QUANTD_QUANTIZERS_CODECS_AQLM_H_

#include "quantizers/codecs/aqlm_config.h"
#include "quantizers/codecs/codec.h"

namespace quantd {

// An empty matrix of `rows` x `cols` whose floats are stored as `dtype`: grid, blocks and dtypes.
QuantizedTensor EmptyAqlm(const AqlmConfig& config, int64_t rows, int64_t cols, DType dtype);

// `codes` int8 or int16 [out / out_group_size, in / in_group_size, num_codebooks], two's complement
// of nbits_per_codebook bits; `codebooks` [num_codebooks, 2^bits, out_group_size, in_group_size];
// `scales` [out / out_group_size, 1, 1, 1].
class AqlmCodec : public Codec {
 public:
  explicit AqlmCodec(AqlmConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "aqlm"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 3; }

 private:
  absl::Status DecodeCodes(const ModuleTensors& tensors, QuantizedTensor* out) const;

  AqlmConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AQLM_H_
