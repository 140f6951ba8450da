// SINQ (sinq 0.2.0 with Transformers 5.23): unsigned codes with scale and zero point of groups of
// columns, both stored in 8 bits, and a scale for every column.
#ifndef QUANTD_QUANTIZERS_CODECS_SINQ_H_
#define QUANTD_QUANTIZERS_CODECS_SINQ_H_

#include <optional>

#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/hqq_packing.h"
#include "quantizers/solvers/sinkhorn.h"

namespace quantd {

struct SinqConfig {
  SinqSpec spec;
  std::string method = "sinq";  // "asinq": calibrated, stored alike
  std::optional<std::vector<std::string>> modules_to_not_convert;
};

// INVALID_ARGUMENT names the key, found and expected; UNIMPLEMENTED for tiling_mode 2D.
absl::StatusOr<SinqConfig> ParseSinqConfig(const std::string& json);
absl::Status CheckSinqConfig(const SinqConfig& config);
std::string WriteSinqConfig(const SinqConfig& config);

// How upstream packs codes of `bits`; null for widths that it does not have.
const HqqPacking* SinqPackingOf(int bits);

// A module as upstream's loader is told of it.
struct SinqModule {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
};
// model.safetensors.index.json.meta.json: what of each module is no tensor. Upstream computes in
// `dtype`. Its loader asks for an entry of every module with buffers; that of the rotary embedding,
// which computes its own, is empty.
constexpr char kSinqMetaFile[] = "model.safetensors.index.json.meta.json";
std::string WriteSinqMeta(const SinqConfig& config, DType dtype, bool has_rotary_embedding,
                          const std::vector<SinqModule>& modules);

// With B = out * in / group blocks, in the order of the flattened matrix: `W_q` packed as hqq does
// (hqq_packing.h), of [B, group] codes; `meta.scale.x` U8 [32, B / 32] with steps `meta.scale.s`
// and offsets `meta.scale.m` [1, B / 32]; `meta.zero.x` U8 [B, 1] with one `meta.zero.s` and
// `meta.zero.m`; `meta.scale2` [1, in], the columns' scales. All floats are float16.
class SinqCodec : public Codec {
 public:
  // Upstream dequantizes in the model's `dtype`.
  SinqCodec(SinqConfig config, DType dtype) : config_(std::move(config)), dtype_(dtype) {}

  absl::string_view quant_method() const override { return "sinq"; }
  bool IsQuantized(const ModuleTensors& tensors) const override { return tensors.Has("W_q"); }
  std::vector<std::string> WeightTensors(const ModuleTensors& tensors) const override;
  absl::StatusOr<Shape> MatrixShape(const ModuleTensors& tensors) const override;
  absl::StatusOr<QuantizedTensor> Decode(const ModuleTensors& tensors) const override;
  absl::StatusOr<std::vector<NamedTensor>> Encode(const QuantizedTensor& weight) const override;
  int max_tensors_per_matrix() const override { return 8; }

 private:
  SinqConfig config_;
  DType dtype_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_SINQ_H_
