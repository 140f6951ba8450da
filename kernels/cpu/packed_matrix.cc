#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "core/float_types.h"
#include "kernels/cpu/pack.h"

namespace quantd::cpu {
namespace {

float StoredFloat(const std::byte* base, bool half, int64_t index) {
  if (half) {
    uint16_t bits;
    std::memcpy(&bits, base + index * 2, sizeof bits);
    return FloatFromF16(bits);
  }
  float value;
  std::memcpy(&value, base + index * 4, sizeof value);
  return value;
}

float DenseValue(const PackedMatrix& m, const std::byte* panel, int lane, int64_t col) {
  if (m.element == Element::kF32) return StoredFloat(panel, false, col * kPanelRows + lane);
  if (m.element == Element::kF16) return StoredFloat(panel, true, col * kPanelRows + lane);
  uint16_t bits;
  std::memcpy(&bits, panel + ((col / 2 * kPanelRows + lane) * 2 + col % 2) * 2, sizeof bits);
  return FloatFromBf16(bits);
}

float GridValue(const PackedMatrix& m, int code) {
  switch (m.element) {
    case Element::kLut4:
      return m.table[code];
    case Element::kFp8:
      return FloatFromE4M3(static_cast<uint8_t>(code));
    default:
      return static_cast<float>(m.zero_mode == ZeroMode::kConstant ? code - m.zero : code);
  }
}

int64_t LineBytes(Element element, int64_t cols) {
  switch (element) {
    case Element::kF32:
      return cols * kPanelRows * 4;
    case Element::kF16:
    case Element::kBf16:
      return cols * kPanelRows * 2;
    case Element::kU4:
    case Element::kLut4:
      return cols * kPanelRows / 2;
    default:
      return cols * kPanelRows;
  }
}

}  // namespace

int CodeAt(const PackedMatrix& m, const std::byte* lines, int lane, int64_t position) {
  if (m.element == Element::kU8 || m.element == Element::kFp8) {
    return static_cast<int>(lines[position / 4 * 64 + lane * 4 + position % 4]);
  }
  const int byte = static_cast<int>(lines[position / 8 * 64 + lane * 4 + position % 4]);
  return position % 8 < 4 ? byte & 15 : byte >> 4;
}

bool IsDense(Element element) {
  return element == Element::kF32 || element == Element::kF16 || element == Element::kBf16;
}

absl::Status AllocatePanels(PackedMatrix& m, Arena& arena) {
  m.panels = (m.rows + kPanelRows - 1) / kPanelRows;
  GroupLayout& layout = m.groups;
  layout.group_bytes = LineBytes(m.element, m.columns.padded);
  if (!IsDense(m.element)) {
    const bool zeros = m.zero_mode != ZeroMode::kConstant;
    layout.zeros_offset = kPanelRows * (m.half_scales ? 2 : 4);
    layout.header_bytes = m.half_scales || !zeros ? kLineBytes : 2 * kLineBytes;
    layout.shared_header = m.half_scales && !zeros;
  }
  const int64_t end = layout.codes(m.columns.groups - 1) + layout.group_bytes;
  m.panel_bytes = (end + kLineBytes - 1) / kLineBytes * kLineBytes;
  ASSIGN_OR_RETURN(m.storage, arena.Allocate(static_cast<size_t>(m.panels * m.panel_bytes)));
  return absl::OkStatus();
}

void UnpackRow(const PackedMatrix& m, int64_t row, float* out) {
  const std::byte* panel = m.panel(row / kPanelRows);
  const int lane = static_cast<int>(row % kPanelRows);
  if (IsDense(m.element)) {
    for (int64_t c = 0; c < m.columns.cols; ++c) out[c] = DenseValue(m, panel, lane, c);
    return;
  }
  for (int64_t group = 0; group < m.columns.groups; ++group) {
    const std::byte* scales = panel + m.groups.scales(group);
    const std::byte* zeros = panel + m.groups.zeros(group);
    const std::byte* lines = panel + m.groups.codes(group);
    const float scale = StoredFloat(scales, m.half_scales, lane) * m.multiplier;
    const float zero =
        m.zero_mode == ZeroMode::kConstant ? 0.0f : StoredFloat(zeros, m.half_scales, lane);
    const float shift = m.zero_mode == ZeroMode::kZero ? zero : 0.0f;
    const float offset = m.zero_mode == ZeroMode::kOffset ? zero * m.multiplier : 0.0f;
    const int64_t first = group * m.columns.group;
    const int64_t end = std::min(first + m.columns.group, m.columns.cols);
    for (int64_t c = first; c < end; ++c) {
      const int code = CodeAt(m, lines, lane, c - first);
      out[c] = (GridValue(m, code) - shift) * scale + offset;
    }
  }
}

}  // namespace quantd::cpu
