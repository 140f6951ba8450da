#include "models/calibration/linear_products.h"

#include <algorithm>

namespace quantd::calibration {

void TokenOperand::Set(const float* values, int64_t tokens, int64_t width) {
  values_ = values;
  tokens_ = tokens;
  width_ = width;
  of_tokens_.is_there = of_columns_.is_there = right_.is_there = false;
}

const BFloat16Operand& TokenOperand::Packed(ProductSide side, bool by_columns, Layout& layout) {
  if (!layout.is_there) {
    const MatrixOperand values = plain();
    if (by_columns) {
      layout.operand.Pack(side, values.Transposed(), width_, tokens_);
    } else {
      layout.operand.Pack(side, values, tokens_, width_);
    }
    layout.is_there = true;
  }
  return layout.operand;
}

const BFloat16Operand& TokenOperand::Tokens() {
  return Packed(ProductSide::kLeft, false, of_tokens_);
}
const BFloat16Operand& TokenOperand::Columns() {
  return Packed(ProductSide::kLeft, true, of_columns_);
}
const BFloat16Operand& TokenOperand::Right() { return Packed(ProductSide::kRight, true, right_); }

void LinearProducts::SetBFloat16(bool on) {
  bfloat16_ = on;
  layouts_.clear();
}

void LinearProducts::Forget(const std::string& module) {
  const auto found = layouts_.find(module);
  if (found != layouts_.end()) found->second.has_forward = found->second.has_backward = false;
}

template <class Piece>
void LinearProducts::InPieces(Size size, const Piece& piece) {
  constexpr int64_t kPiece = int64_t{1} << 32;  // multiplications
  const int64_t step =
      std::clamp<int64_t>(kPiece / (size.cols * size.inner) / 96 * 96, 96, size.rows + 96);
  for (int64_t first = 0; first < size.rows; first += step) {
    if (stopped_ && stopped_()) return;
    piece(first, std::min(step, size.rows - first));
  }
}

void LinearProducts::Multiply(Size size, const MatrixOperand& a, const MatrixOperand& b, bool add,
                              float* c) {
  if (!add) std::fill_n(c, size.rows * size.cols, 0.0f);
  InPieces(size, [&](int64_t first, int64_t count) {
    AddMatrixProduct(count, size.cols, size.inner,
                     {a.data + first * a.row_stride, a.row_stride, a.col_stride}, b,
                     c + first * size.cols, size.cols);
  });
}

void LinearProducts::Multiply(const BFloat16Operand& left, const BFloat16Operand& right, bool add,
                              float* c) {
  const int64_t cols = right.rows();
  InPieces({left.rows(), cols, left.inner()}, [&](int64_t first, int64_t count) {
    const ProductRange range = {first, count, cols, left.inner()};
    MultiplyBFloat16(left, right, range, add, c + first * cols, cols);
  });
}

void LinearProducts::Forward(TokenOperand& x, const LinearWeight& weight, bool add, float* y) {
  const MatrixOperand values = {weight.values, weight.cols, 1};
  if (!bfloat16_) {
    Multiply({x.tokens(), weight.rows, weight.cols}, x.plain(), values.Transposed(), add, y);
    return;
  }
  Layouts& layouts = layouts_[weight.module];
  if (!layouts.has_forward) {
    layouts.forward.Pack(ProductSide::kRight, values, weight.rows, weight.cols);
    layouts.has_forward = true;
  }
  Multiply(x.Tokens(), layouts.forward, add, y);
}

void LinearProducts::InputGradient(TokenOperand& dy, const LinearWeight& weight, bool add,
                                   float* dx) {
  const MatrixOperand values = {weight.values, weight.cols, 1};
  if (!bfloat16_) {
    Multiply({dy.tokens(), weight.cols, weight.rows}, dy.plain(), values, add, dx);
    return;
  }
  Layouts& layouts = layouts_[weight.module];
  if (!layouts.has_backward) {
    layouts.backward.Pack(ProductSide::kRight, values.Transposed(), weight.cols, weight.rows);
    layouts.has_backward = true;
  }
  Multiply(dy.Tokens(), layouts.backward, add, dx);
}

void LinearProducts::AddWeightGradient(TokenOperand& dy, TokenOperand& x, float* gradient) {
  if (!bfloat16_) {
    Multiply({dy.width(), x.width(), x.tokens()}, dy.plain().Transposed(), x.plain(), true,
             gradient);
    return;
  }
  Multiply(dy.Columns(), x.Right(), true, gradient);
}

}  // namespace quantd::calibration
