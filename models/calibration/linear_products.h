// The products of a block's linears, forward and backward, of float32 operands or of operands
// rounded to bfloat16. What several products share is rounded and laid out once.
#ifndef QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_
#define QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "kernels/bfloat16_product.h"
#include "kernels/matrix_product.h"

namespace quantd::calibration {

// Values of tokens, [tokens, width], that several products read. They stay as they are, and stay
// alive, until the next Set.
class TokenOperand {
 public:
  void Set(const float* values, int64_t tokens, int64_t width);
  int64_t tokens() const { return tokens_; }
  int64_t width() const { return width_; }
  MatrixOperand plain() const { return {values_, width_, 1}; }

  // Laid out when they are first asked for: rows are tokens; rows are columns of the values; the
  // values as B.
  const BFloat16Operand& Tokens();
  const BFloat16Operand& Columns();
  const BFloat16Operand& Right();

 private:
  struct Layout {
    BFloat16Operand operand;
    bool is_there = false;
  };
  const BFloat16Operand& Packed(ProductSide side, bool by_columns, Layout& layout);

  const float* values_ = nullptr;
  int64_t tokens_ = 0, width_ = 0;
  Layout of_tokens_, of_columns_, right_;
};

// A weight [rows, cols] under its name.
struct LinearWeight {
  const std::string& module;
  const float* values;
  int64_t rows, cols;
};

class LinearProducts {
 public:
  // Products end soon when `stopped` says so, with values that mean nothing.
  explicit LinearProducts(std::function<bool()> stopped) : stopped_(std::move(stopped)) {}

  // Multiply bfloat16 from now on, or float32 as at first.
  void SetBFloat16(bool on);
  // The weight may be another than before: what was laid out of it is void.
  void Forget(const std::string& module);

  // y [tokens, rows] = or (`add`) += x W^T.
  void Forward(TokenOperand& x, const LinearWeight& weight, bool add, float* y);
  // dx [tokens, cols] = or += dy W.
  void InputGradient(TokenOperand& dy, const LinearWeight& weight, bool add, float* dx);
  // gradient [dy.width(), x.width()] += dy^T x.
  void AddWeightGradient(TokenOperand& dy, TokenOperand& x, float* gradient);

 private:
  struct Layouts {
    BFloat16Operand forward, backward;
    bool has_forward = false, has_backward = false;
  };
  struct Size {
    int64_t rows, cols, inner;
  };
  // In pieces that take milliseconds.
  void Multiply(Size size, const MatrixOperand& a, const MatrixOperand& b, bool add, float* c);
  void Multiply(const BFloat16Operand& left, const BFloat16Operand& right, bool add, float* c);
  template <class Piece>
  void InPieces(Size size, const Piece& piece);

  const std::function<bool()> stopped_;
  bool bfloat16_ = false;
  std::map<std::string, Layouts> layouts_;  // of weights, by module
};

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_
