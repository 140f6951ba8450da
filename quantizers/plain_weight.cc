#include "quantizers/plain_weight.h"

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd {

Tensor ToPlain(Weight weight, DType dtype) {
  if (Tensor* plain = std::get_if<Tensor>(&weight)) {
    if (plain->dtype == dtype || !InfoOf(plain->dtype).is_float) return std::move(*plain);
    return ConvertTensor(*plain, dtype);
  }
  const QuantizedTensor& quantized = std::get<QuantizedTensor>(weight);
  Tensor out = MakeTensor(dtype, {quantized.rows, quantized.cols});
  ParallelFor(quantized.rows, [&](int64_t row) {
    std::vector<float> values(quantized.cols);
    PlainRows(quantized, row, 1, values.data());
    StoreFloats(dtype, values.data(), quantized.cols,
                out.bytes.data() + row * quantized.cols * SizeOf(dtype));
  });
  return out;
}

absl::Status CheckCanBePlain(absl::string_view name, const Weight& weight, bool has_bias) {
  const auto* quantized = std::get_if<QuantizedTensor>(&weight);
  if (quantized == nullptr) return absl::OkStatus();
  const bool scales_bias = has_bias && quantized->bias_scale != 1;
  if (quantized->input.norm_weight.empty() && !scales_bias) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(name, ": the layer ", scales_bias ? "scales its bias" : "normalizes its inputs",
                   ", which a plain checkpoint cannot say; quantize from the original model"));
}

}  // namespace quantd
