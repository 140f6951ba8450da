#include "quantizers/codecs/quark_plain.h"

#include <cmath>

#include "core/float_types.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kScale[] = "weight_scale";

}  // namespace

Grid QuarkPlainGrid(DType dtype) {
  Grid grid;
  grid.kind = Grid::Kind::kCodebook;
  grid.bits = 16;
  std::vector<uint16_t> bits(size_t{1} << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const Tensor all = TensorOf<uint16_t>(dtype, {int64_t{1} << 16}, bits);
  grid.table.resize(bits.size());
  LoadFloats(all, 0, static_cast<int64_t>(bits.size()), grid.table.data());
  // No weight may have one of these codes.
  for (float& value : grid.table) value = std::isfinite(value) ? value : 0.0f;
  return grid;
}

QuantizedTensor QuarkPlain(const TensorView& weight, DType dtype) {
  const Tensor converted = ConvertTensor(weight, dtype);
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = QuarkPlainGrid(dtype);
  out.wide_codes = Elements<uint16_t>(converted);
  // Beyond the range: the largest finite number, where upstream has infinity.
  const uint16_t infinity = dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
  for (uint16_t& code : out.wide_codes) {
    if ((code & 0x7fff) == infinity) --code;
  }
  out.block = {.rows = 0, .cols = 0};
  out.scale = {1.0f};
  out.dequantized_dtype = dtype;
  KeepTensor(kScale, FloatTensor(DType::kF32, {1}, {1.0f}), &out.attributes);
  return out;
}

absl::Status DecodeQuarkPlain(const ModuleTensors& tensors, const QuarkSpec& spec,
                              QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, "weight", {spec.stored_dtype}, Shape{out->rows, out->cols}));
  ASSIGN_OR_RETURN(const std::vector<float> values,
                   ReadFiniteFloats(tensors, "weight", {spec.stored_dtype}, stored.shape));
  out->wide_codes = Elements<uint16_t>(stored);
  out->scale = {1.0f};
  out->block = {.rows = 0, .cols = 0};
  out->dequantized_dtype = spec.stored_dtype;
  if (!tensors.Has(kScale)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensor scale, ReadTensor(tensors, kScale, {DType::kF32}, Shape{1}));
  KeepTensor(kScale, scale, &out->attributes);
  return absl::OkStatus();
}

}  // namespace quantd
