// SpQR layers as spqr_quant 0.2.0 stores them: 3-bit codes in tiles of 16 by 16 whose scales and
// zero points have 3-bit codes too, and the outliers beside them.
#ifndef QUANTD_QUANTIZERS_CODECS_SPQR_H_
#define QUANTD_QUANTIZERS_CODECS_SPQR_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/spqr_config.h"

namespace quantd {

// How the outliers are indexed: by rows, or by bands of 16 rows that are padded with zeros to the
// same length and interleaved.
enum class SpqrSparse { kCsr, kPtcsr };

// Notes on a matrix how it is to be written; rows of bands are padded for kPtcsr.
void MarkSpqr(SpqrSparse sparse, QuantizedTensor* weight);

// `dense_weights` int64 [out * in / 16]; `row_offsets` int32 [out + 1] or [out / 16 + 1];
// `col_vals` int32 [outliers]; `in_perm` int32 [in / 2], or empty for no permutation.
class SpqrCodec : public Codec {
 public:
  explicit SpqrCodec(SpqrConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "spqr"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }
  absl::StatusOr<std::string> ConfigOfStored(
      const std::string& quantization_config,
      const std::map<std::string, Shape>& stored) const override;

 private:
  SpqrConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_SPQR_H_
