// VPTQ layers as vptq 0.0.5 stores them: vectors down the rows, each a centroid and perhaps a
// residual centroid; outlier columns with a codebook of their own; a permutation of the columns and
// a scale and a bias for each input.
#ifndef QUANTD_QUANTIZERS_CODECS_VPTQ_H_
#define QUANTD_QUANTIZERS_CODECS_VPTQ_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/vptq_config.h"

namespace quantd {

// A matrix of the layer's layout with room for its codes, whose floats are stored as `dtype`. The
// tables are empty; column_scale, column_offset and the permutation are the caller's.
QuantizedTensor EmptyVptq(const VptqLayer& layer, DType dtype);

// `indices` int32 [group_num, out / vector_len, words of (group_size codes)]; `centroids.weight`
// [group_num, num_centroids * vector_len], `res_centroids.weight` the same; `outlier_indices` int16
// [1, out / length, outlier_size], `outlier_centroids.weight`; `perm` int16 [in]; `weight_scale`,
// `weight_bias` [in].
class VptqCodec : public Codec {
 public:
  explicit VptqCodec(VptqConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "vptq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 8; }

 private:
  absl::StatusOr<const VptqLayer*> LayerOf(const ModuleTensors& tensors) const;

  VptqConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_VPTQ_H_
