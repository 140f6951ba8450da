#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/cpu/pack.h"

namespace quantd::cpu {
namespace {

// Row by row access to a weight's values, in the order of the codes' columns.
class RowReader {
 public:
  explicit RowReader(const Weight& weight)
      : weight_(weight), rows_(RowsOf(weight)), cols_(ColsOf(weight)) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  void Read(int64_t row, float* out) const {
    if (const auto* tensor = std::get_if<Tensor>(&weight_)) {
      LoadFloats(tensor->view(), row * cols_, cols_, out);
      return;
    }
    const auto& quantized = std::get<QuantizedTensor>(weight_);
    DequantizeRows(quantized, row, 1, out);
    const std::vector<int32_t>& permutation = quantized.input.permutation;
    if (permutation.empty()) return;
    const std::vector<float> original(out, out + cols_);
    for (int64_t c = 0; c < cols_; ++c) out[c] = original[permutation[c]];
  }

 private:
  const Weight& weight_;
  int64_t rows_, cols_;
};

bool FitsBf16(float v) { return (std::bit_cast<uint32_t>(v) & 0xffffu) == 0; }
bool FitsF16(float v) { return FloatFromF16(F16FromFloat(v)) == v; }

template <class Test>
bool AllFit(const RowReader& reader, Test test) {
  std::atomic<bool> fits{true};
  ParallelFor((reader.rows() + kPanelRows - 1) / kPanelRows, [&](int64_t panel) {
    if (!fits.load(std::memory_order_relaxed)) return;
    std::vector<float> row(reader.cols());
    const int64_t end = std::min(reader.rows(), (panel + 1) * kPanelRows);
    for (int64_t r = panel * kPanelRows; r < end; ++r) {
      reader.Read(r, row.data());
      if (!std::all_of(row.begin(), row.end(), test)) fits = false;
    }
  });
  return fits;
}

Element ChooseElement(const Weight& weight, const RowReader& reader, Compute compute) {
  if (compute == Compute::kExact) return Element::kF32;
  const auto* tensor = std::get_if<Tensor>(&weight);
  if (tensor != nullptr && tensor->dtype == DType::kBF16) return Element::kBf16;
  if (AllFit(reader, FitsBf16)) return Element::kBf16;
  if (AllFit(reader, FitsF16)) return Element::kF16;
  if (tensor != nullptr) return Element::kF32;
  // A quantized weight must not grow to float32 because its last bits fit no half: 11 bits are far
  // below its own quantization step.
  const auto in_range = [](float v) { return std::abs(v) < 65504.0f; };
  return AllFit(reader, in_range) ? Element::kF16 : Element::kBf16;
}

void StoreLane(const PackedMatrix& m, const float* values, int lane, std::byte* panel) {
  for (int64_t c = 0; c < m.columns.cols; ++c) {
    if (m.element == Element::kF32) {
      std::memcpy(panel + (c * kPanelRows + lane) * 4, values + c, 4);
      continue;
    }
    const bool half = m.element == Element::kF16;
    const uint16_t bits = half ? F16FromFloat(values[c]) : Bf16FromFloat(values[c]);
    const int64_t at = half ? c * kPanelRows + lane : (c / 2 * kPanelRows + lane) * 2 + c % 2;
    std::memcpy(panel + at * 2, &bits, 2);
  }
}

}  // namespace

absl::StatusOr<PackedMatrix> PackDense(const Weight& weight, Compute compute, Arena& arena) {
  const RowReader reader(weight);
  PackedMatrix m;
  m.layout = Layout::kDense;
  m.element = ChooseElement(weight, reader, compute);
  m.rows = reader.rows();
  // Two columns share a line of halves.
  const int64_t padded = (reader.cols() + 1) / 2 * 2;
  m.columns = {.cols = reader.cols(),
               .group = reader.cols(),
               .padded = padded,
               .groups = 1,
               .block = static_cast<int>(std::min<int64_t>(padded, 64))};
  RETURN_IF_ERROR(AllocatePanels(m, arena));
  ParallelFor(m.panels, [&](int64_t index) {
    std::vector<float> row(m.columns.cols);
    std::byte* panel = m.storage.data + index * m.panel_bytes;
    const int64_t end = std::min(m.rows, (index + 1) * kPanelRows);
    for (int64_t r = index * kPanelRows; r < end; ++r) {
      reader.Read(r, row.data());
      StoreLane(m, row.data(), static_cast<int>(r % kPanelRows), panel);
    }
  });
  return m;
}

}  // namespace quantd::cpu
