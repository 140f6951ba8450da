// A matrix in panels: what the CPU backend keeps of one part of a PackedWeight.
#ifndef QUANTD_KERNELS_CPU_PACKED_MATRIX_H_
#define QUANTD_KERNELS_CPU_PACKED_MATRIX_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/panel.h"

namespace quantd::cpu {

// How columns are grouped and padded. Column c lies at padded column c / group * padded + c %
// group.
struct ColumnPlan {
  int64_t cols = 0;
  int64_t group = 0;   // columns that share a scale
  int64_t padded = 0;  // the same, rounded up to whole blocks
  int64_t groups = 0;
  int block = 0;  // columns per int8 activation scale

  int64_t padded_cols() const { return groups * padded; }
  int64_t position(int64_t col) const { return col / group * padded + col % group; }
  bool operator==(const ColumnPlan&) const = default;
};

// Scales are kept in float32 when a row has one, and in f16 (11 bits) when it has several, all
// divided by `multiplier`, a power of two that keeps them in f16's normal range. Scales that a
// checkpoint stores in f16 or bf16 stay exact; others move by at most 2^-12, relatively, which is
// far below the step of the codes.
struct PackedMatrix {
  Layout layout = Layout::kDense;
  Element element = Element::kF32;
  ZeroMode zero_mode = ZeroMode::kConstant;
  bool half_scales = false;
  int32_t zero = 0;  // kConstant
  float multiplier = 1;
  std::array<float, 16> table{};  // kLut4
  int64_t rows = 0;
  ColumnPlan columns;

  int64_t panels = 0;
  int64_t panel_bytes = 0;
  GroupLayout groups;
  ArenaSpan storage;

  const std::byte* panel(int64_t index) const { return storage.data + index * panel_bytes; }
};

// Packs `weight`, columns in code order, in the cheapest panel format that holds it. Weights that
// no format holds (codebooks, outliers, groups below 8 columns) become dense. INVALID_ARGUMENT for
// an inconsistent weight, RESOURCE_EXHAUSTED when memory does not suffice.
absl::StatusOr<PackedMatrix> PackMatrix(const Weight& weight, Compute compute, Arena& arena);

// Row `row` as floats, out[cols].
void UnpackRow(const PackedMatrix& matrix, int64_t row, float* out);

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_PACKED_MATRIX_H_
