// The products of a block's linears, forward and backward, of float32 operands or of rounded ones.
// What several products share is rounded and laid out, or sent to a device, once.
#ifndef QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_
#define QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/matrix_product.h"
#include "kernels/product_device.h"
#include "kernels/rounded_product.h"

namespace quantd::calibration {

// Operands whose memory is used again as soon as nobody else holds them.
class OperandPool {
 public:
  std::shared_ptr<RoundedOperand> Take();

 private:
  std::vector<std::shared_ptr<RoundedOperand>> operands_;
};

// Values of tokens, [tokens, width], that several products read. They stay as they are, and stay
// alive, until the next Set.
class TokenOperand {
 public:
  void Set(const float* values, int64_t tokens, int64_t width);
  int64_t tokens() const { return tokens_; }
  int64_t width() const { return width_; }
  MatrixOperand plain() const { return {values_, width_, 1}; }

  // Laid out when they are first asked for: rows are tokens; rows are columns of the values; the
  // values as B. The last two may be held beyond the next Set.
  using SharedOperand = std::shared_ptr<const RoundedOperand>;
  const RoundedOperand& Tokens(ProductRounding rounding);
  SharedOperand Columns(ProductRounding rounding, OperandPool& pool);
  SharedOperand Right(ProductRounding rounding, OperandPool& pool);
  // The values on the device, always the same one, rounded if asked for; sent when they are first
  // asked for.
  absl::StatusOr<const DeviceMatrix*> On(ProductDevice& device, bool bfloat16);

 private:
  SharedOperand PackedColumns(ProductRounding rounding, ProductSide side, OperandPool& pool,
                              SharedOperand& layout);

  const float* values_ = nullptr;
  int64_t tokens_ = 0, width_ = 0;
  RoundedOperand of_tokens_;
  bool has_tokens_ = false;
  SharedOperand of_columns_, right_;  // or null
  std::unique_ptr<DeviceMatrix> on_device_;
  bool is_on_device_ = false, is_rounded_ = false;
};

// A weight [rows, cols] under its name.
struct LinearWeight {
  const std::string& module;
  const float* values;
  int64_t rows, cols;
};

class LinearProducts {
 public:
  // Products end soon when `stopped` says so, with values that mean nothing. They are `device`'s,
  // which outlives this, those of bfloat16 if it is wide; null: the CPU's. When the device fails,
  // the CPU takes over, to the same bits, and the device is told (NoteFailure).
  LinearProducts(std::function<bool()> stopped, ProductDevice* device)
      : stopped_(std::move(stopped)), device_(device) {}

  // Whether products wait for a device.
  bool on_device() const {
    if (!rounding_) return device_ != nullptr;
    return device_ != nullptr && *rounding_ == ProductRounding::kBFloat16 && device_->is_wide();
  }

  // Multiply operands rounded so from now on, or (none) float32 as at first.
  void SetRounding(std::optional<ProductRounding> rounding);
  // The weight may be another than before: what was laid out of it is void.
  void Forget(const std::string& module);

  // y [tokens, rows] = or (`add`) += x W^T.
  void Forward(TokenOperand& x, const LinearWeight& weight, bool add, float* y);
  // dx [tokens, cols] = or += dy W.
  void InputGradient(TokenOperand& dy, const LinearWeight& weight, bool add, float* dx);
  // gradient [dy.width(), x.width()] = or += dy^T x; perhaps not before FinishWeightGradients, so
  // that a gradient is read and written once for several calls.
  void WeightGradient(TokenOperand& dy, TokenOperand& x, bool add, float* gradient);
  void FinishWeightGradients();

 private:
  struct Layouts {
    RoundedOperand forward, backward;
    bool has_forward = false, has_backward = false;
    std::unique_ptr<DeviceMatrix> on_device;
    bool is_on_device = false;
  };
  struct Size {
    int64_t rows, cols, inner;
  };
  // The rows of C from `first` on, in pieces that take milliseconds.
  void Multiply(Size size, int64_t first, const MatrixOperand& a, const MatrixOperand& b, bool add,
                float* c);
  void Multiply(const RoundedOperand& left, const RoundedOperand& right, int64_t first, bool add,
                float* c);
  // `most`: multiplications of a piece.
  template <class Piece>
  void InPieces(Size size, int64_t first, int64_t most, const Piece& piece);
  // The first rows of C, as many as it returns: all, or whole pieces of 96, but where there is no
  // device, or it fails.
  int64_t MultiplyOnDevice(DeviceProduct product, Size size, bool add, float* c);
  // Null when the device cannot.
  const DeviceMatrix* OnDevice(TokenOperand& values);
  const DeviceMatrix* OnDevice(const LinearWeight& weight);
  // The CPU goes on alone.
  void LeaveDevice(const absl::Status& failure);

  // Products of WeightGradient that are still to be made.
  struct WaitingGradient {
    float* gradient;
    bool add;
    std::vector<TokenOperand::SharedOperand> left, right;
  };

  const std::function<bool()> stopped_;
  ProductDevice* device_;
  bool rounds_to_bfloat16() const { return rounding_ == ProductRounding::kBFloat16; }

  std::optional<ProductRounding> rounding_;
  std::map<std::string, Layouts> layouts_;  // of weights, by module
  std::unique_ptr<DeviceMatrix> sums_;      // of a piece
  OperandPool pool_;
  std::vector<WaitingGradient> waiting_;
  int64_t waiting_bytes_ = 0;
};

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_LINEAR_PRODUCTS_H_
