#include "quantizers/solvers/gptq_order.h"

#include <algorithm>
#include <numeric>

namespace quantd {

GptqGroups::GptqGroups(int64_t /*rows*/, int64_t cols, const GptqSpec& spec)
    : cols_(cols),
      size_(spec.group_size <= 0 ? cols : std::min(spec.group_size, cols)),
      count_((cols + size_ - 1) / size_),
      whole_rows_(spec.group_size <= 0),
      mixes_columns_(spec.desc_act && !spec.static_groups && !whole_rows_),
      finds_on_the_way_(!spec.static_groups && !whole_rows_) {}

std::vector<int32_t> GptqGroups::OutputPermutation(const std::vector<int32_t>& order) const {
  if (!mixes_columns_) return {};
  std::vector<int32_t> permutation = order;
  for (int64_t first = 0; first < cols_; first += size_) {
    std::sort(permutation.begin() + first, permutation.begin() + std::min(cols_, first + size_));
  }
  const bool in_order = std::is_sorted(permutation.begin(), permutation.end());
  return in_order ? std::vector<int32_t>() : permutation;
}

std::vector<int32_t> GptqGroups::OutputColumns(const std::vector<int32_t>& order) const {
  const std::vector<int32_t> permutation = OutputPermutation(order);
  if (permutation.empty()) return order;
  std::vector<int32_t> place(order.size()), columns(order.size());
  for (size_t c = 0; c < order.size(); ++c) place[permutation[c]] = static_cast<int32_t>(c);
  for (size_t c = 0; c < order.size(); ++c) columns[c] = place[order[c]];
  return columns;
}

std::vector<int32_t> GptqColumnOrder(std::span<const float> diagonal, const GptqSpec& spec,
                                     const GptqGroups& groups) {
  std::vector<int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; };
  if (spec.desc_act) {
    std::stable_sort(order.begin(), order.end(), larger);
    return order;
  }
  if (!spec.act_group_aware || groups.whole_rows()) return order;
  // Whole groups only: a last one that is shorter keeps its place.
  const int64_t size = groups.size(), whole = static_cast<int64_t>(diagonal.size()) / size;
  for (int64_t group = 0; group < whole; ++group) {
    std::stable_sort(order.begin() + group * size, order.begin() + (group + 1) * size, larger);
  }
  std::vector<int32_t> sequence(static_cast<size_t>(whole));
  std::iota(sequence.begin(), sequence.end(), 0);
  const std::vector<int32_t> inside = order;
  std::stable_sort(sequence.begin(), sequence.end(), [&](int32_t a, int32_t b) {
    return diagonal[inside[a * size]] > diagonal[inside[b * size]];
  });
  for (int64_t slot = 0; slot < whole; ++slot) {
    std::copy_n(inside.begin() + sequence[slot] * size, size, order.begin() + slot * size);
  }
  return order;
}

}  // namespace quantd
