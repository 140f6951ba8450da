// Quantize and dequantize requests, checked and made into operations. Everything that can be
// refused is refused here, before an operation exists.
#ifndef QUANTD_SERVICE_QUANTIZE_REQUEST_H_
#define QUANTD_SERVICE_QUANTIZE_REQUEST_H_

#include "quant/v1/quantization.pb.h"
#include "service/context.h"

namespace quantd {

absl::StatusOr<OperationStore::Request> PrepareQuantize(
    const ServiceContext& services, const quant::v1::QuantizeCheckpointRequest& request);
absl::StatusOr<OperationStore::Request> PrepareDequantize(
    const ServiceContext& services, const quant::v1::DequantizeCheckpointRequest& request);

// "bf16", "f16", "f32".
absl::StatusOr<DType> ParseFloatDType(absl::string_view field, absl::string_view name);

}  // namespace quantd

#endif  // QUANTD_SERVICE_QUANTIZE_REQUEST_H_
