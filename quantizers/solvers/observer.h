// Round-to-nearest with the ranges that AMD Quark's weight observers see (amd-quark 0.13,
// quantization/observer/observer.py and kernel/hw_emulation). Scales are computed in the weight's
// dtype, codes in float32 with the reciprocal of the stored scale.
#ifndef QUANTD_QUANTIZERS_SOLVERS_OBSERVER_H_
#define QUANTD_QUANTIZERS_SOLVERS_OBSERVER_H_

#include <optional>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct ObservedIntegers {
  int bits = 8;
  bool is_signed = true;
  bool symmetric = true;
  BlockShape block;                  // one scale for the matrix is float32
  std::optional<DType> scale_dtype;  // unset: the weight's
};

// Codes are found twice, as upstream's export does: of the weight, and of what that dequantizes to
// in the weight's dtype. Scales that upstream rounds to infinity become the largest finite number.
absl::StatusOr<QuantizedTensor> QuantizeObservedIntegers(const TensorView& weight,
                                                         const ObservedIntegers& spec);

// float8_e4m3fn or float8_e5m2; quotients are rounded to the weight's dtype before they are cast.
absl::StatusOr<QuantizedTensor> QuantizeObservedFloat8(const TensorView& weight,
                                                       const BlockShape& block, DType float_dtype,
                                                       std::optional<DType> scale_dtype);

enum class MicroscalingValues { kE2M1, kE2M3, kE3M2 };
// kEven: the exponent of the absmax rounded to the precision of the values. kFloor, kCeil: of its
// logarithm.
enum class SharedExponent { kEven, kFloor, kCeil };

// OCP Microscaling groups. Results of zero have no sign.
absl::StatusOr<QuantizedTensor> QuantizeMicroscaling(const TensorView& weight, int64_t group_size,
                                                     MicroscalingValues values,
                                                     SharedExponent exponent);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_OBSERVER_H_
