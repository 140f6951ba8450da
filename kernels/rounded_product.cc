#include "kernels/rounded_product.h"

#include <algorithm>
#include <atomic>

#include "core/parallel.h"
#include "kernels/matrix_panels.h"
#include "kernels/rounded_product_tables.h"

namespace quantd {
namespace {

constexpr int64_t kChain = 32;                       // what slices are multiples of
constexpr int64_t kRangeRows = 96;                   // what a range's first row is a multiple of
constexpr int64_t kTaskRows = 288, kTaskCols = 512;  // of C that a task fills, at most
constexpr int64_t kGroupBytes = 1 << 19;             // of left panels, at most
constexpr int64_t kLargestTile = 32 * 32;            // elements, of any instruction set
constexpr double kPackedPerSecond = 1e9;             // elements of a thread, about
constexpr double kAlone = 2e-5;                      // seconds that threads are not worth

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

// A pair, by [first, first + depth) of its inner dimension.
struct Piece {
  RoundedPair pair;
  int64_t first, depth;
};

// What the next columns of C are multiplied by: a part of it comes into the cache with each tile.
class Lookahead {
 public:
  Lookahead() = default;
  Lookahead(const void* panel, int64_t bytes, int64_t tiles)
      : panel_(static_cast<const std::byte*>(panel)),
        bytes_(bytes),
        step_((bytes / tiles + kLine) / kLine * kLine) {}
  void Go() {
    for (const int64_t stop = std::min(at_ + step_, bytes_); at_ < stop; at_ += kLine) {
      __builtin_prefetch(panel_ + at_);
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const std::byte* panel_ = nullptr;
  int64_t bytes_ = 0, step_ = 0, at_ = 0;
};

// C of a part of the range = or += the products of pieces, one after the other, by the calling
// thread: while pieces come and go, the columns of C that they meet stay in the first cache.
void Fill(const RoundedProduct& product, std::span<const Piece> pieces, int64_t first_row,
          const MatrixPart& part, bool add, float* c, int64_t c_stride) {
  const int64_t height = product.left_rows, width = product.right_rows;
  const int64_t end_row = part.row + part.rows, end_col = part.col + part.cols;
  const auto fill_columns = [&](const RoundedPair& pair, int64_t j, int64_t k, int64_t depth,
                                bool add_to, Lookahead ahead) {
    const int64_t cols = std::min(width, end_col - j);
    PanelPair panels = {pair.left->Panel(first_row + part.row), pair.right->Panel(j),
                        pair.left->inner(), pair.right->inner()};
    for (int64_t i = part.row; i < end_row; i += height) {
      const int64_t rows = std::min(height, end_row - i);
      const TileOfC tile = {c + i * c_stride + j, c_stride, add_to};
      ahead.Go();
      if (rows == height && cols == width) {
        product.multiply(panels, k, depth, tile);
      } else {
        MultiplyAtEdge(product, panels, k, depth, tile, rows, cols);
      }
      panels.left = static_cast<const std::byte*>(panels.left) + pair.left->panel_bytes();
    }
  };
  const auto right_panel_after = [&](size_t piece, int64_t j) {
    const bool is_last = piece + 1 == pieces.size();
    const RoundedOperand& right = *pieces[is_last ? 0 : piece + 1].pair.right;
    if (is_last) j += width;
    if (j >= end_col) return Lookahead();
    return Lookahead(right.Panel(j), right.panel_bytes(), (part.rows + height - 1) / height);
  };
  if (product.begin != nullptr) product.begin();
  for (int64_t j = part.col; j < end_col; j += width) {
    bool add_to = add;
    for (size_t p = 0; p < pieces.size(); ++p) {
      const Piece& piece = pieces[p];
      const int64_t slice = SliceOf(piece.depth, product.slice), end = piece.first + piece.depth;
      for (int64_t k = piece.first; k < end; k += slice, add_to = true) {
        fill_columns(piece.pair, j, k, std::min(slice, end - k), add_to, right_panel_after(p, j));
      }
    }
  }
  if (product.end != nullptr) product.end();
}

// What a task multiplies by before it goes to the next columns of C: its left panels stay in the
// second cache.
std::vector<std::vector<Piece>> GroupsOf(const RoundedProduct& product,
                                         std::span<const RoundedPair> pairs) {
  std::vector<std::vector<Piece>> groups;
  int64_t bytes = 0;  // of the last group's left panels
  for (const RoundedPair& pair : pairs) {
    const int64_t inner = pair.left->inner(), depth = SliceOf(inner, product.depth);
    const int64_t pair_bytes =
        kRangeRows / product.left_rows * product.panel_bytes(ProductSide::kLeft, inner);
    const bool joins = !groups.empty() && depth >= inner && bytes + pair_bytes <= kGroupBytes;
    bytes = joins ? bytes + pair_bytes : pair_bytes;
    for (int64_t first = 0; first < inner; first += depth) {
      if (!joins) groups.emplace_back();
      groups.back().push_back({pair, first, std::min(depth, inner - first)});
    }
  }
  return groups;
}

// Parts of C, small enough for every thread to have some.
MatrixParts PartsOf(const ProductRange& range, MatrixParts::Size most) {
  const int64_t down = (range.rows + most.rows - 1) / most.rows;
  while (down * ((range.cols + most.cols - 1) / most.cols) < 4 * ComputeThreads() &&
         most.cols > 64) {
    most.cols /= 2;
  }
  return MatrixParts(range.rows, range.cols, most, {kRangeRows, 32});
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
  const int64_t at_once = std::max<int64_t>(product.packed_rows / panel_rows_, 1);  // panels
  const auto pack = [&](int64_t task) {
    const int64_t panel = task * at_once, row = panel * panel_rows_;
    product.pack(side, {from.data + row * from.row_stride, from.row_stride, from.col_stride},
                 std::min(at_once * panel_rows_, rows - row), inner,
                 lines_.data() + panel * panel_lines_);
  };
  ParallelFor((panels + at_once - 1) / at_once, pack,
              static_cast<double>(at_once * panel_rows_ * inner) / kPackedPerSecond);
}

const void* RoundedOperand::Panel(int64_t row) const {
  return lines_.data() + row / panel_rows_ * panel_lines_;
}

void MultiplyRounded(std::span<const RoundedPair> pairs, const ProductRange& range, bool add,
                     float* c, int64_t c_stride) {
  const RoundedProduct& product = Selected(pairs.front().left->rounding());
  if (const int64_t inner = pairs.front().left->inner();
      pairs.size() == 1 && inner <= product.depth &&
      static_cast<double>(range.rows * range.cols * inner) < kAlone * product.per_second) {
    const Piece whole = {pairs.front(), 0, inner};
    Fill(product, std::span(&whole, 1), range.first, {0, 0, range.rows, range.cols}, add, c,
         c_stride);
    return;
  }
  const int64_t most_rows = pairs.size() == 1 ? kTaskRows : kRangeRows;
  const MatrixParts parts = PartsOf(range, {most_rows, kTaskCols});
  const std::vector<std::vector<Piece>> groups = GroupsOf(product, pairs);
  const auto fill = [&](int64_t task) {
    bool add_to = add;
    for (const std::vector<Piece>& group : groups) {
      Fill(product, group, range.first, parts[task], add_to, c, c_stride);
      add_to = true;
    }
  };
  double multiplications = 0;
  for (const RoundedPair& pair : pairs) {
    multiplications += parts.multiplications(pair.left->inner());
  }
  ParallelFor(parts.count(), fill, multiplications / product.per_second);
}

}  // namespace quantd
