#include "quantizers/plain_weight.h"

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

namespace {

// ConvertTensor that can be stopped.
Tensor Converted(const TensorView& view, DType dtype, const StopRequest& stopped) {
  constexpr int64_t kChunk = 16384;
  Tensor out = MakeTensor(dtype, view.shape);
  const int64_t elements = view.elements();
  (void)ParallelForUnlessStopped((elements + kChunk - 1) / kChunk, stopped, [&](int64_t chunk) {
    float values[kChunk];
    const int64_t first = chunk * kChunk, count = std::min(kChunk, elements - first);
    LoadFloats(view, first, count, values);
    StoreFloats(dtype, values, count, out.bytes.data() + first * SizeOf(dtype));
  });
  return out;
}

}  // namespace

Tensor ToPlain(Weight weight, DType dtype, const StopRequest& stopped) {
  if (Tensor* plain = std::get_if<Tensor>(&weight)) {
    if (plain->dtype == dtype || !InfoOf(plain->dtype).is_float) return std::move(*plain);
    return Converted(*plain, dtype, stopped);
  }
  QuantizedTensor& quantized = std::get<QuantizedTensor>(weight);
  if (quantized.follows_loaded_dtype) quantized.dequantized_dtype = dtype;
  Tensor out = MakeTensor(dtype, {quantized.rows, quantized.cols});
  (void)ParallelForUnlessStopped(quantized.rows, stopped, [&](int64_t row) {
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

absl::StatusOr<SharedTensor> ReadPlain(const ModelSource& source, absl::string_view name,
                                       DType dtype, const Scheme* scheme,
                                       const StopRequest& stopped) {
  if (std::optional<SharedTensor> lent = source.Lend(name)) {
    const DType stored = lent->view.dtype;
    const bool spared = scheme != nullptr && scheme->ConvertsItself() &&
                        (stored == DType::kF32 || stored == DType::kF16 || stored == DType::kBF16);
    if (stored == dtype || spared || !InfoOf(stored).is_float) return *std::move(lent);
    Tensor converted = Converted(lent->view, dtype, stopped);
    RETURN_IF_ERROR(lent->CheckIntact());
    return Share(std::move(converted));
  }
  ASSIGN_OR_RETURN(Weight weight, source.Read(name));
  RETURN_IF_ERROR(CheckCanBePlain(name, weight, HasBias(source, name)));
  return Share(ToPlain(std::move(weight), dtype, stopped));
}

}  // namespace quantd
