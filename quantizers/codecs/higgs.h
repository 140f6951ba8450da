// HIGGS layers as Transformers 5.23 stores them (integrations/higgs.py, HiggsLinear): codes in
// FLUTE's packing, a scale for each group, and the grid as FLUTE's two lookup tables.
#ifndef QUANTD_QUANTIZERS_CODECS_HIGGS_H_
#define QUANTD_QUANTIZERS_CODECS_HIGGS_H_

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/higgs_config.h"

namespace quantd {

// Notes on a matrix how its codes are to be packed, for Encode.
void MarkHiggs(const FlutePacking& packing, QuantizedTensor* weight);

class HiggsCodec : public Codec {
 public:
  explicit HiggsCodec(HiggsConfig config) : config_(std::move(config)) {}

  absl::string_view quant_method() const override { return "higgs"; }
  bool IsQuantized(const ModuleTensors& tensors) const override;
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 4; }

 private:
  absl::StatusOr<FlutePacking> PackingOf(const ModuleTensors& tensors, const Shape& shape) const;
  absl::Status DecodeGrid(const ModuleTensors& tensors, QuantizedTensor* out) const;

  HiggsConfig config_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HIGGS_H_
