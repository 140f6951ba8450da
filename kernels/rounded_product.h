// Dense products of operands rounded to bfloat16 or to blocks of int8, for training and for ranking
// candidates: the same bits on every machine, and many times as fast as float32 where the processor
// multiplies small numbers (AMX, VNNI).
#ifndef QUANTD_KERNELS_ROUNDED_PRODUCT_H_
#define QUANTD_KERNELS_ROUNDED_PRODUCT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/float_buffer.h"
#include "kernels/matrix_product.h"

namespace quantd {

enum class ProductSide { kLeft, kRight };

// What operands are rounded to. Values below 2^-50 become zero, so that no sum is ever subnormal.
enum class ProductRounding {
  // To nearest bfloat16, ties to even. An element of a product: over slices of 32 of the inner
  // dimension, a chain of fused multiply-adds of the even indices and one of the odd; their sum is
  // added to C, slice after slice. That is what TDPBF16PS computes (Intel SDM, volume 2).
  kBFloat16,
  // To nearest multiple, ties to even, of a 127th of the greatest magnitude in the row's block of
  // kInt8Block along the inner dimension. An element: block after block, the sum of the products of
  // integers, which is exact, times the product of the two scales is added to C.
  kInt8,
};
inline constexpr int64_t kInt8Block = 256;

// One operand of products, rounded and laid out as this processor multiplies it: products that
// share it share that work.
class RoundedOperand {
 public:
  // `from` [rows, inner] holds the rows of A (kLeft) or the columns of B (kRight), finite. The
  // memory of what was packed before is used again. In parallel by ParallelFor.
  void Pack(ProductRounding rounding, ProductSide side, const MatrixOperand& from, int64_t rows,
            int64_t inner);
  // Of rows that lie one after the other, [rows, inner].
  void Pack(ProductRounding rounding, ProductSide side, const float* from, int64_t rows,
            int64_t inner) {
    Pack(rounding, side, MatrixOperand{from, inner, 1}, rows, inner);
  }

  ProductRounding rounding() const { return rounding_; }
  int64_t rows() const { return rows_; }
  int64_t inner() const { return inner_; }
  int64_t bytes() const { return static_cast<int64_t>(lines_.size() * sizeof(Line)); }
  // The panel that holds `row`, which it begins with; the next one is panel_bytes() on.
  const void* Panel(int64_t row) const;
  int64_t panel_bytes() const { return panel_lines_ * static_cast<int64_t>(sizeof(Line)); }

 private:
  struct Line {
    std::byte bytes[64];
  };
  ProductRounding rounding_ = ProductRounding::kBFloat16;
  int64_t rows_ = 0, inner_ = 0;
  int64_t panel_rows_ = 1, panel_lines_ = 0;
  std::vector<Line, LineAllocator<Line>> lines_;
};

// Two sides of a product, rounded alike. The inner dimension is the left one's; that of the right
// one may go on, if the left one's is a multiple of 32.
struct RoundedPair {
  const RoundedOperand* left;
  const RoundedOperand* right;
};

// The part of a product that is wanted: `rows` of the left operand from `first`, a multiple of 96,
// by the first `cols` of the right one.
struct ProductRange {
  int64_t first = 0;
  int64_t rows = 0, cols = 0;
};

// C [rows, cols], rows c_stride apart, = or (`add`) += the product of a pair; of several, then +=
// that of the next, and so on, but C is read and written once. In parallel by ParallelFor.
void MultiplyRounded(std::span<const RoundedPair> pairs, const ProductRange& range, bool add,
                     float* c, int64_t c_stride);
inline void MultiplyRounded(const RoundedOperand& left, const RoundedOperand& right,
                            const ProductRange& range, bool add, float* c, int64_t c_stride) {
  const RoundedPair pair = {&left, &right};
  MultiplyRounded(std::span(&pair, 1), range, add, c, c_stride);
}

struct PanelPair {
  const void* left;
  const void* right;
  int64_t left_inner, right_inner;  // of the operands
};
// A whole tile of C: as many rows as a left panel has, and as many columns as a right one.
struct TileOfC {
  float* data;
  int64_t stride;
  bool add;
};

// The arithmetic of one rounding and one instruction set.
struct RoundedProduct {
  const char* isa;
  int64_t left_rows, right_rows;  // of a panel
  int64_t packed_rows = 1;        // that pack takes at a time, where they are more than a panel's
  // How much of the inner dimension is multiplied at a time, whole chains or blocks: the slice of a
  // right panel stays in the first cache, the depth of a task's left panels in the second.
  int64_t slice, depth;
  double per_second;  // multiplications of a thread, about
  int64_t (*panel_bytes)(ProductSide side, int64_t inner);
  // The panel of the first `rows` of `from`, zeros where there are no more; of packed_rows, all of
  // their panels, panel_bytes apart, which are whole cache lines.
  void (*pack)(ProductSide side, const MatrixOperand& from, int64_t rows, int64_t inner,
               void* panels);
  // By [first, first + depth) of the inner dimension; `first` is a multiple of `slice`.
  void (*multiply)(const PanelPair& panels, int64_t first, int64_t depth, const TileOfC& c);
  // Around calls of multiply by one thread; or null.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
};
// All that this processor runs, the fastest last; null-terminated.
const RoundedProduct* const* AllRoundedProducts(ProductRounding rounding);
// The one that operands are packed for, from now on; for tests. Null: the fastest.
void SelectRoundedProduct(ProductRounding rounding, const RoundedProduct* product);

}  // namespace quantd

#endif  // QUANTD_KERNELS_ROUNDED_PRODUCT_H_
