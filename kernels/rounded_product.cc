#include "kernels/rounded_product.h"

#include <algorithm>
#include <atomic>

#include "core/parallel.h"
#include "kernels/matrix_panels.h"
#include "kernels/rounded_product_tables.h"

namespace quantd {
namespace {

constexpr int64_t kChain = 32;                       // what slices are multiples of
constexpr int64_t kTaskRows = 288, kTaskCols = 512;  // of C that a task fills, at most
constexpr int64_t kLargestTile = 32 * 32;            // elements, of any instruction set
constexpr double kPackedPerSecond = 1e9;             // elements of a thread, about

const Variants<RoundedProduct>& ProductsOf(ProductRounding rounding) {
  return rounding == ProductRounding::kInt8 ? Int8Products() : BFloat16Products();
}

}  // namespace

const RoundedProduct* const* AllRoundedProducts(ProductRounding rounding) {
  return ProductsOf(rounding).all();
}

namespace {

std::atomic<const RoundedProduct*> selected[2] = {};  // by ProductRounding

const RoundedProduct& Selected(ProductRounding rounding) {
  const RoundedProduct* chosen =
      selected[static_cast<size_t>(rounding)].load(std::memory_order_relaxed);
  return chosen != nullptr ? *chosen : ProductsOf(rounding).best();
}

// The size of slices of `inner` that are of about one size: whole chains, `most` at the most.
int64_t SliceOf(int64_t inner, int64_t most) {
  const int64_t slices = std::max<int64_t>((inner + most - 1) / most, 1);
  return (inner + slices * kChain - 1) / (slices * kChain) * kChain;
}

// The first `rows` and `cols` of a tile.
void MultiplyAtEdge(const RoundedProduct& product, const PanelPair& panels, int64_t first,
                    int64_t depth, const TileOfC& c, int64_t rows, int64_t cols) {
  alignas(64) float edge[kLargestTile] = {};
  for (int64_t r = 0; c.add && r < rows; ++r) {
    std::copy_n(c.data + r * c.stride, cols, edge + r * product.right_rows);
  }
  product.multiply(panels, first, depth, {edge, product.right_rows, c.add});
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(edge + r * product.right_rows, cols, c.data + r * c.stride);
  }
}

// C of a part of the range = or += the product, one slice after the other, by the calling thread.
void Fill(const RoundedOperand& left, const RoundedOperand& right, const ProductRange& range,
          const MatrixPart& part, bool add, float* c, int64_t c_stride) {
  const RoundedProduct& product = Selected(left.rounding());
  const int64_t height = product.left_rows, width = product.right_rows;
  const int64_t end_row = part.row + part.rows, end_col = part.col + part.cols;
  const auto fill_columns = [&](int64_t j, int64_t k, int64_t depth) {
    const int64_t cols = std::min(width, end_col - j);
    for (int64_t i = part.row; i < end_row; i += height) {
      const PanelPair panels = {left.Panel(range.first + i), right.Panel(j), left.inner(),
                                right.inner()};
      const int64_t rows = std::min(height, end_row - i);
      const TileOfC tile = {c + i * c_stride + j, c_stride, add || k > 0};
      if (rows == height && cols == width) {
        product.multiply(panels, k, depth, tile);
      } else {
        MultiplyAtEdge(product, panels, k, depth, tile, rows, cols);
      }
    }
  };
  if (product.begin != nullptr) product.begin();
  const int64_t depth = SliceOf(range.inner, product.depth);
  const int64_t slice = SliceOf(depth, product.slice);
  for (int64_t first = 0; first < range.inner; first += depth) {
    const int64_t end = std::min(first + depth, range.inner);
    for (int64_t j = part.col; j < end_col; j += width) {
      for (int64_t k = first; k < end; k += slice) fill_columns(j, k, std::min(slice, end - k));
    }
  }
  if (product.end != nullptr) product.end();
}

}  // namespace

void SelectRoundedProduct(ProductRounding rounding, const RoundedProduct* product) {
  selected[static_cast<size_t>(rounding)] = product;
}

void RoundedOperand::Pack(ProductRounding rounding, ProductSide side, const MatrixOperand& from,
                          int64_t rows, int64_t inner) {
  const RoundedProduct& product = Selected(rounding);
  rounding_ = rounding;
  rows_ = rows;
  inner_ = inner;
  panel_rows_ = side == ProductSide::kLeft ? product.left_rows : product.right_rows;
  panel_lines_ = (product.panel_bytes(side, inner) + 63) / 64;
  const int64_t panels = (rows + panel_rows_ - 1) / panel_rows_;
  lines_.resize(static_cast<size_t>(panels * panel_lines_));
  const auto pack = [&](int64_t panel) {
    const int64_t row = panel * panel_rows_;
    product.pack(side, {from.data + row * from.row_stride, from.row_stride, from.col_stride},
                 std::min(panel_rows_, rows - row), inner, lines_.data() + panel * panel_lines_);
  };
  ParallelFor(panels, pack, static_cast<double>(panel_rows_ * inner) / kPackedPerSecond);
}

const void* RoundedOperand::Panel(int64_t row) const {
  return lines_.data() + row / panel_rows_ * panel_lines_;
}

void MultiplyRounded(const RoundedOperand& left, const RoundedOperand& right,
                     const ProductRange& range, bool add, float* c, int64_t c_stride) {
  // Parts small enough for every thread to have some.
  MatrixParts::Size most = {kTaskRows, kTaskCols};
  const int64_t down = (range.rows + most.rows - 1) / most.rows;
  while (down * ((range.cols + most.cols - 1) / most.cols) < 4 * ComputeThreads() &&
         most.cols > 64) {
    most.cols /= 2;
  }
  const MatrixParts parts(range.rows, range.cols, most, {96, 32});
  const auto fill = [&](int64_t task) { Fill(left, right, range, parts[task], add, c, c_stride); };
  ParallelFor(parts.count(), fill,
              parts.multiplications(range.inner) / Selected(left.rounding()).per_second);
}

}  // namespace quantd
