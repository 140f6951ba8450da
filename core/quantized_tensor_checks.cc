#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/quantized_tensor.h"

namespace quantd {
namespace {

template <class T>
absl::Status CheckCodes(const Grid& grid, const std::vector<T>& codes, int64_t expected) {
  if (static_cast<int64_t>(codes.size()) != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", codes.size(), " codes, expected ", expected));
  }
  const int books = grid.kind == Grid::Kind::kCodebook ? grid.codebooks : 1;
  for (int k = 0; k < books; ++k) {
    const int bits = grid.bits_of(k);
    if (bits >= static_cast<int>(8 * sizeof(T))) continue;
    for (size_t i = k; i < codes.size(); i += books) {
      if (codes[i] >> bits) {
        return absl::InvalidArgumentError(absl::StrCat("code ", static_cast<int>(codes[i]),
                                                       " at element ", i, " does not fit ", bits,
                                                       " bits"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckVectors(const Grid& grid, int64_t cols) {
  if (grid.kind != Grid::Kind::kCodebook) return absl::OkStatus();
  if (grid.vector_length <= 0 || grid.vector_rows <= 0 || cols % grid.vector_length != 0) {
    return absl::InvalidArgumentError("the vector length does not divide the columns");
  }
  if (grid.codebooks < 1 || grid.bits < 1 || grid.bits > 16 || grid.residual_bits < 0 ||
      grid.residual_bits > 16) {
    return absl::InvalidArgumentError("codebooks need codes of 1 to 16 bits");
  }
  if (static_cast<int64_t>(grid.table.size()) == grid.table_size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the codebooks have ", grid.table.size(),
                                                 " values, expected ", grid.table_size()));
}

absl::Status CheckAllCodes(const QuantizedTensor& t) {
  if (!t.leading.empty() && t.grid.kind != Grid::Kind::kCodebook) {
    return absl::InvalidArgumentError("runs of columns need codebooks");
  }
  for (const ColumnRun& run : t.leading) {
    if (run.cols <= 0 || run.grid.kind != Grid::Kind::kCodebook) {
      return absl::InvalidArgumentError("a run of columns needs columns and codebooks");
    }
    RETURN_IF_ERROR(CheckVectors(run.grid, run.cols));
    RETURN_IF_ERROR(CheckCodes(run.grid, run.wide_codes, run.grid.code_count(t.rows, run.cols)));
  }
  const int64_t cols = t.cols - t.leading_columns();
  if (cols < 0) return absl::InvalidArgumentError("more columns in runs than in the matrix");
  RETURN_IF_ERROR(CheckVectors(t.grid, cols));
  const int64_t codes = t.grid.code_count(t.rows, cols);
  return t.wide_codes.empty() ? CheckCodes(t.grid, t.codes, codes)
                              : CheckCodes(t.grid, t.wide_codes, codes);
}

absl::Status CheckCount(absl::string_view what, size_t found, int64_t expected, bool optional) {
  if (optional && found == 0) return absl::OkStatus();
  if (static_cast<int64_t>(found) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("found ", found, " values of ", what, ", expected ", expected));
}

absl::Status CheckPermutation(const QuantizedTensor& t) {
  const std::vector<int32_t>& permutation = t.input.permutation;
  if (permutation.empty()) return absl::OkStatus();
  std::vector<bool> seen(t.cols);
  if (static_cast<int64_t>(permutation.size()) != t.cols) {
    return absl::InvalidArgumentError("the column permutation has another length than the matrix");
  }
  for (const int32_t column : permutation) {
    if (column < 0 || column >= t.cols || seen[column]) {
      return absl::InvalidArgumentError(
          absl::StrCat("column ", column, " is out of range or twice in the permutation"));
    }
    seen[column] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckOutliers(const QuantizedTensor& t) {
  const Outliers& o = t.outliers;
  if (o.row_begin.empty()) return absl::OkStatus();
  bool ok = static_cast<int64_t>(o.row_begin.size()) == t.rows + 1 && o.row_begin.front() == 0 &&
            o.row_begin.back() == static_cast<int64_t>(o.column.size()) &&
            o.column.size() == o.value.size() &&
            std::is_sorted(o.row_begin.begin(), o.row_begin.end());
  ok = ok && std::all_of(o.column.begin(), o.column.end(),
                         [&](int32_t c) { return c >= 0 && c < t.cols; });
  return ok ? absl::OkStatus() : absl::InvalidArgumentError("the outlier index is inconsistent");
}

}  // namespace

absl::Status Validate(const QuantizedTensor& t) {
  if (t.rows < 0 || t.cols < 0) return absl::InvalidArgumentError("negative matrix dimensions");
  if (t.block.flat && t.block.cols <= 0) {
    return absl::InvalidArgumentError("flat blocks need a positive block size");
  }
  if (t.block.strided && (!t.block.flat || t.rows * t.cols % t.block.cols != 0)) {
    return absl::InvalidArgumentError("strided blocks must be flat and of equal size");
  }
  RETURN_IF_ERROR(CheckAllCodes(t));
  const int64_t blocks = t.block_count();
  RETURN_IF_ERROR(CheckCount("scale", t.scale.size(), blocks, /*optional=*/false));
  RETURN_IF_ERROR(CheckCount("zero_point", t.zero_point.size(), blocks, /*optional=*/true));
  RETURN_IF_ERROR(CheckCount("offset", t.offset.size(), blocks, /*optional=*/true));
  RETURN_IF_ERROR(CheckCount("column_scale", t.column_scale.size(), t.cols, /*optional=*/true));
  RETURN_IF_ERROR(CheckCount("column_offset", t.column_offset.size(), t.cols, /*optional=*/true));
  const int hadamard = t.input.hadamard_size;
  if (hadamard < 0 || (hadamard > 0 && t.cols % hadamard != 0) || (hadamard & (hadamard - 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("found a rotation of ", hadamard,
                     " columns, expected a power of two that divides ", t.cols));
  }
  const size_t entries = t.input.rotation.size();
  if (entries != 0 && entries != static_cast<size_t>(hadamard) * static_cast<size_t>(hadamard)) {
    return absl::InvalidArgumentError(absl::StrCat("found a rotation of ", entries,
                                                   " entries, expected ", hadamard, "x", hadamard));
  }
  RETURN_IF_ERROR(CheckPermutation(t));
  RETURN_IF_ERROR(Validate(t.input.rounding));
  return CheckOutliers(t);
}

}  // namespace quantd
