#include "quantizers/plain_weight.h"

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

}  // namespace quantd
