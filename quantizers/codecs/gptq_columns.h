// Groups of GPTQ's act-order: g_idx says of every input channel which group it belongs to.
#ifndef QUANTD_QUANTIZERS_CODECS_GPTQ_COLUMNS_H_
#define QUANTD_QUANTIZERS_CODECS_GPTQ_COLUMNS_H_

#include <cstdint>
#include <vector>

#include "quantizers/codecs/codec.h"

namespace quantd {

// The columns in the order of their groups, those of a group in their own; empty when they are in
// that order already. INVALID_ARGUMENT names g_idx unless every group has `size` columns, the last
// one perhaps fewer.
absl::StatusOr<std::vector<int32_t>> GroupOrder(const ModuleTensors& tensors,
                                                const std::vector<int32_t>& index, int64_t size);

// Puts the codes of `weight` into the order `order`, which becomes its input permutation.
void GatherColumns(std::vector<int32_t> order, QuantizedTensor* weight);
// The reverse: codes in the order of the input channels.
std::vector<uint8_t> CodesInInputOrder(const QuantizedTensor& weight);
// g_idx of a weight.
std::vector<int32_t> GroupIndex(const QuantizedTensor& weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GPTQ_COLUMNS_H_
