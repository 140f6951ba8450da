#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/cpu/pack.h"

namespace quantd::cpu {
namespace {

constexpr int64_t kSmallestGroup = 8;

int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Columns of one row that surely share a scale.
int64_t GroupColumns(const QuantizedTensor& t) {
  if (t.block.strided) return t.block.cols == 1 ? t.cols : 1;
  if (t.block.flat) return std::gcd(t.cols, t.block.cols);
  return t.block.cols <= 0 ? t.cols : std::min(t.block.cols, t.cols);
}

ColumnPlan PlanColumns(int64_t cols, int64_t group) {
  ColumnPlan plan;
  plan.cols = cols;
  plan.group = group;
  plan.groups = (cols + group - 1) / group;
  plan.block = group <= 16 ? 16 : 32;
  // Large groups afford larger blocks, which need fewer multiplications by scales.
  if (group % 64 == 0 || group > 256) plan.block = 64;
  plan.padded = RoundUp(group, plan.block);
  return plan;
}

// The zero point that all blocks have in units of codes, if it is one integer.
std::optional<int32_t> ConstantZero(const QuantizedTensor& t) {
  if (!t.offset.empty()) return std::nullopt;
  const float first = static_cast<float>(t.grid.first);
  if (t.zero_point.empty()) return -t.grid.first;
  const float zero = t.zero_point.front();
  const bool constant =
      std::all_of(t.zero_point.begin(), t.zero_point.end(), [zero](float z) { return z == zero; });
  if (!constant || zero != std::nearbyint(zero) || std::abs(zero - first) > 256) {
    return std::nullopt;
  }
  return static_cast<int32_t>(zero - first);
}

struct BlockValues {
  float scale;
  float zero;  // what ZeroMode says
};

BlockValues ValuesOf(const QuantizedTensor& t, ZeroMode mode, int64_t block) {
  const float scale = t.scale[block] * t.post_scale;
  const float zero_point = t.zero_point.empty() ? 0.0f : t.zero_point[block];
  const float zero = zero_point - static_cast<float>(t.grid.first);
  if (mode == ZeroMode::kZero) return {scale, zero};
  if (mode == ZeroMode::kConstant) return {scale, 0.0f};
  return {scale, t.offset.empty() ? -zero * scale : t.offset[block] - zero * scale};
}

// A power of two that brings the largest scale or offset just below 2^15.
float ChooseMultiplier(const QuantizedTensor& t, ZeroMode mode) {
  float largest = 0;
  for (size_t b = 0; b < t.scale.size(); ++b) {
    const BlockValues v = ValuesOf(t, mode, static_cast<int64_t>(b));
    largest = std::max(largest, std::abs(v.scale));
    if (mode == ZeroMode::kOffset) largest = std::max(largest, std::abs(v.zero));
  }
  if (!(largest > 0) || !std::isfinite(largest)) return 1;
  int exponent;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::clamp(exponent - 15, -120, 120));
}

bool DescribeTable(const QuantizedTensor& t, PackedMatrix& m) {
  if (t.grid.is_e4m3 && t.grid.bits == 8) {
    m.layout = Layout::kFp8;
    m.element = Element::kFp8;
    const bool nan = std::any_of(t.codes.begin(), t.codes.end(),
                                 [](uint8_t code) { return (code & 0x7f) == 0x7f; });
    return !nan && t.zero_point.empty() && t.offset.empty();
  }
  if (t.grid.bits > 4 || t.grid.table.size() > 16) return false;
  m.layout = Layout::kLut4;
  m.element = Element::kLut4;
  std::copy(t.grid.table.begin(), t.grid.table.end(), m.table.begin());
  return t.zero_point.empty() && t.offset.empty();
}

bool DescribeUniform(const QuantizedTensor& t, PackedMatrix& m) {
  if (t.grid.bits > 8) return false;
  m.element = t.grid.bits > 4 ? Element::kU8 : Element::kU4;
  if (const std::optional<int32_t> zero = ConstantZero(t)) {
    m.zero = *zero;
  } else {
    // Beyond 1024 a zero would lose its fraction in f16.
    const bool small = std::all_of(t.zero_point.begin(), t.zero_point.end(),
                                   [](float z) { return std::abs(z) < 1024; });
    m.zero_mode = t.offset.empty() && small ? ZeroMode::kZero : ZeroMode::kOffset;
  }
  const bool row = m.columns.groups == 1 && m.element == Element::kU8;
  m.layout = row && m.zero_mode == ZeroMode::kConstant ? Layout::kInt8Row : Layout::kIntGroup;
  return true;
}

// Everything of the format but the geometry of panels; false when codes cannot be kept.
bool Describe(const QuantizedTensor& t, PackedMatrix& m) {
  if (!t.outliers.row_begin.empty() && !t.outliers.column.empty()) return false;
  if (t.codes.empty() || t.grid.kind == Grid::Kind::kCodebook) return false;
  if (!t.column_scale.empty() || !t.column_offset.empty()) return false;
  const int64_t group = GroupColumns(t);
  if (group < std::min(kSmallestGroup, t.cols)) return false;
  m.rows = t.rows;
  m.columns = PlanColumns(t.cols, group);
  m.half_scales = m.columns.groups > 1;
  return t.grid.kind == Grid::Kind::kUniform ? DescribeUniform(t, m) : DescribeTable(t, m);
}

void StoreScale(const PackedMatrix& m, float value, int lane, std::byte* to) {
  if (m.half_scales) {
    const uint16_t bits = F16FromFloat(value);
    std::memcpy(to + lane * 2, &bits, 2);
  } else {
    std::memcpy(to + lane * 4, &value, 4);
  }
}

void PackLaneScales(const QuantizedTensor& t, const PackedMatrix& m, int64_t row, int lane,
                    std::byte* panel) {
  for (int64_t group = 0; group < m.columns.groups; ++group) {
    const int64_t block = t.block_of(row, group * m.columns.group);
    const BlockValues values = ValuesOf(t, m.zero_mode, block);
    StoreScale(m, values.scale / m.multiplier, lane, panel + m.groups.scales(group));
    if (m.zero_mode == ZeroMode::kConstant) continue;
    const bool zero = m.zero_mode == ZeroMode::kZero;
    StoreScale(m, zero ? values.zero : values.zero / m.multiplier, lane,
               panel + m.groups.zeros(group));
  }
}

void PackLaneCodes(const QuantizedTensor& t, const PackedMatrix& m, int64_t row, int lane,
                   std::byte* panel) {
  const uint8_t* codes = t.codes.data() + row * t.cols;
  const bool bytes = m.element == Element::kU8 || m.element == Element::kFp8;
  for (int64_t group = 0, c = 0; group < m.columns.groups; ++group) {
    const int64_t end = std::min(c + m.columns.group, t.cols);
    std::byte* lines = panel + m.groups.codes(group);
    for (int64_t p = 0; c < end; ++c, ++p) {
      if (bytes) {
        lines[p / 4 * 64 + lane * 4 + p % 4] = static_cast<std::byte>(codes[c]);
      } else {
        lines[p / 8 * 64 + lane * 4 + p % 4] |=
            static_cast<std::byte>(codes[c] << (p % 8 < 4 ? 0 : 4));
      }
    }
  }
}

absl::Status CheckShape(const Weight& weight) {
  if (RowsOf(weight) <= 0 || ColsOf(weight) <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot pack a weight of ", RowsOf(weight),
                                                   " rows and ", ColsOf(weight), " columns"));
  }
  const auto* tensor = std::get_if<Tensor>(&weight);
  if (tensor == nullptr) return absl::OkStatus();
  const int64_t expected = tensor->view().elements() * SizeOf(tensor->dtype);
  if (static_cast<int64_t>(tensor->bytes.size()) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a weight of shape ", ToString(tensor->shape),
                                                 " has ", tensor->bytes.size(), " bytes, expected ",
                                                 expected));
}

}  // namespace

absl::StatusOr<std::optional<PackedMatrix>> PackCodes(const QuantizedTensor& t, Arena& arena) {
  PackedMatrix m;
  if (!Describe(t, m)) return std::nullopt;
  m.multiplier = ChooseMultiplier(t, m.zero_mode);
  RETURN_IF_ERROR(AllocatePanels(m, arena));
  ParallelFor(m.panels, [&](int64_t index) {
    std::byte* panel = m.storage.data + index * m.panel_bytes;
    const int64_t end = std::min(m.rows, (index + 1) * kPanelRows);
    for (int64_t row = index * kPanelRows; row < end; ++row) {
      const int lane = static_cast<int>(row % kPanelRows);
      PackLaneCodes(t, m, row, lane, panel);
      PackLaneScales(t, m, row, lane, panel);
    }
  });
  return m;
}

absl::StatusOr<PackedMatrix> PackMatrix(const Weight& weight, Compute compute, Arena& arena) {
  RETURN_IF_ERROR(CheckShape(weight));
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) {
    RETURN_IF_ERROR(Validate(*quantized));
    if (compute == Compute::kFast) {
      ASSIGN_OR_RETURN(std::optional<PackedMatrix> packed, PackCodes(*quantized, arena));
      if (packed) return std::move(*packed);
    }
  }
  return PackDense(weight, compute, arena);
}

}  // namespace quantd::cpu
