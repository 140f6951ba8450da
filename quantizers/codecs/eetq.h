// EETQ (NetEase-FuXi/EETQ at 465e9726, Transformers 5.23): int8 columns in the order that CUTLASS'
// mixed-input GEMM reads on SM 75 to 89, under the nominal shape [in, out].
#ifndef QUANTD_QUANTIZERS_CODECS_EETQ_H_
#define QUANTD_QUANTIZERS_CODECS_EETQ_H_

#include <optional>

#include "quantizers/codecs/codec.h"

namespace quantd {

struct EetqConfig {
  std::optional<std::vector<std::string>> modules_to_not_convert;
};

// INVALID_ARGUMENT for another `weights` than int8, or a skip list that cannot be used.
absl::StatusOr<EetqConfig> ParseEetqConfig(const std::string& json);
absl::Status CheckEetqConfig(const EetqConfig& config);
std::string WriteEetqConfig(const EetqConfig& config);

// Rows and columns of a matrix in this layout are multiples of it.
inline constexpr int64_t kEetqTile = 64;

// codes [out, in] to the kernel's bytes and back; both are offset binary. Whole tiles only.
std::vector<uint8_t> PackEetq(std::span<const uint8_t> codes, int64_t out, int64_t in);
std::vector<uint8_t> UnpackEetq(std::span<const uint8_t> bytes, int64_t out, int64_t in);

// `weight` and `weight_scales`; EETQ's own package says `qweight`.
class EetqCodec : public Codec {
 public:
  absl::string_view quant_method() const override { return "eetq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 2; }
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_EETQ_H_
