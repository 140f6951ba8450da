#include "quantizers/codecs/gptq_columns.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {

absl::StatusOr<std::vector<int32_t>> GroupOrder(const ModuleTensors& tensors,
                                                const std::vector<int32_t>& index, int64_t size) {
  const int64_t cols = static_cast<int64_t>(index.size());
  const int64_t groups = (cols + size - 1) / size;
  std::vector<int64_t> members(static_cast<size_t>(groups));
  for (int64_t col = 0; col < cols; ++col) {
    const int64_t group = index[col];
    if (group < 0 || group >= groups) {
      return TensorError(tensors, "g_idx",
                         absl::StrCat("element ", col, " is ", group,
                                      ", expected a group from 0 to ", groups - 1));
    }
    ++members[group];
  }
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t expected = std::min(size, cols - group * size);
    if (members[group] == expected) continue;
    return TensorError(tensors, "g_idx",
                       absl::StrCat("group ", group, " has ", members[group], " columns, expected ",
                                    expected, " with group_size ", size));
  }
  if (std::is_sorted(index.begin(), index.end())) return std::vector<int32_t>();
  std::vector<int32_t> order(index.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return index[a] < index[b]; });
  return order;
}

void GatherColumns(std::vector<int32_t> order, QuantizedTensor* weight) {
  const int64_t cols = weight->cols;
  ParallelFor(weight->rows, [&](int64_t row) {
    uint8_t* line = weight->codes.data() + row * cols;
    const std::vector<uint8_t> stored(line, line + cols);
    for (int64_t col = 0; col < cols; ++col) line[col] = stored[order[col]];
  });
  weight->input.permutation = std::move(order);
}

std::vector<uint8_t> CodesInInputOrder(const QuantizedTensor& weight) {
  const std::vector<int32_t>& order = weight.input.permutation;
  std::vector<uint8_t> codes(weight.codes.size());
  ParallelFor(weight.rows, [&](int64_t row) {
    const int64_t base = row * weight.cols;
    for (int64_t col = 0; col < weight.cols; ++col) {
      codes[base + order[col]] = weight.codes[base + col];
    }
  });
  return codes;
}

std::vector<int32_t> GroupIndex(const QuantizedTensor& weight) {
  const std::vector<int32_t>& order = weight.input.permutation;
  const int64_t size = weight.block.cols > 0 ? weight.block.cols : weight.cols;
  std::vector<int32_t> index(static_cast<size_t>(weight.cols));
  for (int64_t col = 0; col < weight.cols; ++col) {
    index[order.empty() ? col : order[col]] = static_cast<int32_t>(col / size);
  }
  return index;
}

}  // namespace quantd
