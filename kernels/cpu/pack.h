// Filling panels. Private to the packing code.
#ifndef QUANTD_KERNELS_CPU_PACK_H_
#define QUANTD_KERNELS_CPU_PACK_H_

#include <optional>

#include "kernels/cpu/packed_matrix.h"

namespace quantd::cpu {

bool IsDense(Element element);

// Sets the panel geometry of `m` from its element, rows, columns and zero mode, and takes the
// memory.
absl::Status AllocatePanels(PackedMatrix& m, Arena& arena);

// The code of one row at a position in a group's lines.
int CodeAt(const PackedMatrix& m, const std::byte* lines, int lane, int64_t position);

// Dense panels of a float tensor or of a dequantized one. kFast keeps bf16 or f16 where that holds
// every value, and narrows what was dequantized to float32.
absl::StatusOr<PackedMatrix> PackDense(const Weight& weight, Compute compute, Arena& arena);

// Panels of codes, or nothing when the tensor needs a dense matrix.
absl::StatusOr<std::optional<PackedMatrix>> PackCodes(const QuantizedTensor& tensor, Arena& arena);

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_PACK_H_
