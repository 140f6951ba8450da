// In which order GPTQ takes the columns, and which of them share a grid.
#ifndef QUANTD_QUANTIZERS_SOLVERS_GPTQ_ORDER_H_
#define QUANTD_QUANTIZERS_SOLVERS_GPTQ_ORDER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/solvers/gptq.h"

namespace quantd {

// Groups of columns; c counts columns in the solver's order, in which order[c] is the column of the
// matrix.
class GptqGroups {
 public:
  GptqGroups(int64_t rows, int64_t cols, const GptqSpec& spec);

  int64_t size() const { return size_; }
  int64_t count() const { return count_; }
  bool whole_rows() const { return whole_rows_; }
  // Whether groups are made of neighbours in the solver's order that are none in the matrix.
  bool mixes_columns() const { return mixes_columns_; }

  int64_t Of(int64_t c, const std::vector<int32_t>& order) const {
    return (mixes_columns_ ? c : order[c]) / size_;
  }
  // Whether a grid is found at column c.
  bool StartsAt(int64_t c) const { return finds_on_the_way_ && c % size_ == 0; }

  // Where each column goes in the result, whose columns are in the order of the groups, those of a
  // group in the order of the matrix.
  std::vector<int32_t> OutputColumns(const std::vector<int32_t>& order) const;
  // The column of the matrix for each column of the result; empty where they are the same.
  std::vector<int32_t> OutputPermutation(const std::vector<int32_t>& order) const;

 private:
  int64_t cols_, size_, count_;
  bool whole_rows_, mixes_columns_, finds_on_the_way_;
};

// By the mean squares of the inputs, `diagonal`: largest first, equal ones in their own order.
std::vector<int32_t> GptqColumnOrder(std::span<const float> diagonal, const GptqSpec& spec,
                                     const GptqGroups& groups);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_GPTQ_ORDER_H_
