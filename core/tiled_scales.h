// Scales and zero points that are themselves quantized in tiles of the matrix (SpQR).
#ifndef QUANTD_CORE_TILED_SCALES_H_
#define QUANTD_CORE_TILED_SCALES_H_

#include "core/quantized_tensor.h"

namespace quantd {

// Fills `scale` and `zero_point` of a matrix with groups of columns from the codes in `nested`,
// whose super blocks are `super_rows` rows of one group: super * (code - zero), each operation
// rounded to `dequantized_dtype`.
void FillTiledScales(QuantizedTensor* tensor);

}  // namespace quantd

#endif  // QUANTD_CORE_TILED_SCALES_H_
