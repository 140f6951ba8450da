#include "models/calibration/linear_products.h"

#include <algorithm>

namespace quantd::calibration {
namespace {

constexpr int64_t kPiece = int64_t{1} << 32;  // multiplications that take the CPU milliseconds
constexpr int64_t kMostWaiting = 256 << 20;   // bytes of operands

}  // namespace

std::shared_ptr<RoundedOperand> OperandPool::Take() {
  for (const std::shared_ptr<RoundedOperand>& operand : operands_) {
    if (operand.use_count() == 1) return operand;
  }
  return operands_.emplace_back(std::make_shared<RoundedOperand>());
}

void TokenOperand::Set(const float* values, int64_t tokens, int64_t width) {
  values_ = values;
  tokens_ = tokens;
  width_ = width;
  has_tokens_ = is_on_device_ = false;
  of_columns_ = right_ = nullptr;
}

absl::StatusOr<const DeviceMatrix*> TokenOperand::On(ProductDevice& device, bool bfloat16) {
  if (!is_on_device_ || is_rounded_ != bfloat16) {
    is_on_device_ = false;
    RETURN_IF_ERROR(device.Upload(plain(), tokens_, width_, on_device_));
    if (bfloat16) RETURN_IF_ERROR(device.RoundToBFloat16(*on_device_));
    is_on_device_ = true;
    is_rounded_ = bfloat16;
  }
  return on_device_.get();
}

const RoundedOperand& TokenOperand::Tokens(ProductRounding rounding) {
  if (!has_tokens_ || of_tokens_.rounding() != rounding) {
    of_tokens_.Pack(rounding, ProductSide::kLeft, values_, tokens_, width_);
    has_tokens_ = true;
  }
  return of_tokens_;
}

TokenOperand::SharedOperand TokenOperand::PackedColumns(ProductRounding rounding, ProductSide side,
                                                        OperandPool& pool, SharedOperand& layout) {
  if (layout == nullptr || layout->rounding() != rounding) {
    const std::shared_ptr<RoundedOperand> operand = pool.Take();
    operand->Pack(rounding, side, plain().Transposed(), width_, tokens_);
    layout = operand;
  }
  return layout;
}

TokenOperand::SharedOperand TokenOperand::Columns(ProductRounding rounding, OperandPool& pool) {
  return PackedColumns(rounding, ProductSide::kLeft, pool, of_columns_);
}
TokenOperand::SharedOperand TokenOperand::Right(ProductRounding rounding, OperandPool& pool) {
  return PackedColumns(rounding, ProductSide::kRight, pool, right_);
}

void LinearProducts::SetRounding(std::optional<ProductRounding> rounding) {
  rounding_ = rounding;
  layouts_.clear();
  waiting_.clear();
  waiting_bytes_ = 0;
  pool_ = {};
}

void LinearProducts::Forget(const std::string& module) {
  const auto found = layouts_.find(module);
  if (found == layouts_.end()) return;
  Layouts& layouts = found->second;
  layouts.has_forward = layouts.has_backward = layouts.is_on_device = false;
}

template <class Piece>
void LinearProducts::InPieces(Size size, int64_t first, int64_t most, const Piece& piece) {
  const int64_t step =
      std::clamp<int64_t>(most / (size.cols * size.inner) / 96 * 96, 96, size.rows + 96);
  for (; first < size.rows; first += step) {
    if (stopped_ && stopped_()) return;
    piece(first, std::min(step, size.rows - first));
  }
}

void LinearProducts::Multiply(Size size, int64_t first, const MatrixOperand& a,
                              const MatrixOperand& b, bool add, float* c) {
  if (!add) std::fill(c + first * size.cols, c + size.rows * size.cols, 0.0f);
  InPieces(size, first, kPiece, [&](int64_t row, int64_t count) {
    AddMatrixProduct(count, size.cols, size.inner,
                     {a.data + row * a.row_stride, a.row_stride, a.col_stride}, b,
                     c + row * size.cols, size.cols);
  });
}

void LinearProducts::Multiply(const RoundedOperand& left, const RoundedOperand& right,
                              int64_t first, bool add, float* c) {
  const int64_t cols = right.rows();
  InPieces({left.rows(), cols, left.inner()}, first, kPiece, [&](int64_t row, int64_t count) {
    MultiplyRounded(left, right, {row, count, cols}, add, c + row * cols, cols);
  });
}

void LinearProducts::LeaveDevice(const absl::Status& failure) {
  device_->NoteFailure(failure);
  device_ = nullptr;
  sums_.reset();
  for (auto& [module, layouts] : layouts_) {
    layouts.on_device.reset();
    layouts.is_on_device = false;
  }
}

const DeviceMatrix* LinearProducts::OnDevice(TokenOperand& values) {
  if (!on_device()) return nullptr;
  const absl::StatusOr<const DeviceMatrix*> matrix = values.On(*device_, rounds_to_bfloat16());
  if (matrix.ok()) return *matrix;
  LeaveDevice(matrix.status());
  return nullptr;
}

const DeviceMatrix* LinearProducts::OnDevice(const LinearWeight& weight) {
  if (!on_device()) return nullptr;
  Layouts& layouts = layouts_[weight.module];
  if (layouts.is_on_device) return layouts.on_device.get();
  absl::Status sent =
      device_->Upload({weight.values, weight.cols, 1}, weight.rows, weight.cols, layouts.on_device);
  if (sent.ok() && rounds_to_bfloat16()) sent = device_->RoundToBFloat16(*layouts.on_device);
  layouts.is_on_device = sent.ok();
  if (sent.ok()) return layouts.on_device.get();
  LeaveDevice(sent);
  return nullptr;
}

int64_t LinearProducts::MultiplyOnDevice(DeviceProduct product, Size size, bool add, float* c) {
  if (!on_device() || product.a == nullptr || product.b == nullptr) return 0;
  product.bfloat16 = rounds_to_bfloat16();
  int64_t done = 0;
  absl::Status status;
  InPieces(size, 0, device_->piece(), [&](int64_t first, int64_t count) {
    if (!status.ok()) return;
    float* to = c + first * size.cols;
    product.first_row = first;
    status = add ? device_->Upload({to, size.cols, 1}, count, size.cols, sums_)
                 : device_->Zero(count, size.cols, sums_);
    if (status.ok()) status = device_->AddProduct(product, *sums_);
    if (status.ok()) status = device_->Download(*sums_, to, size.cols);
    if (status.ok()) done = first + count;
  });
  if (!status.ok()) LeaveDevice(status);
  return done;
}

void LinearProducts::Forward(TokenOperand& x, const LinearWeight& weight, bool add, float* y) {
  const Size size = {x.tokens(), weight.rows, weight.cols};
  const DeviceProduct product = {.a = OnDevice(x), .b = OnDevice(weight), .b_transposed = true};
  const int64_t done = MultiplyOnDevice(product, size, add, y);
  if (done == size.rows) return;
  const MatrixOperand values = {weight.values, weight.cols, 1};
  if (!rounding_) {
    Multiply(size, done, x.plain(), values.Transposed(), add, y);
    return;
  }
  Layouts& layouts = layouts_[weight.module];
  if (!layouts.has_forward) {
    layouts.forward.Pack(*rounding_, ProductSide::kRight, values, weight.rows, weight.cols);
    layouts.has_forward = true;
  }
  Multiply(x.Tokens(*rounding_), layouts.forward, done, add, y);
}

void LinearProducts::InputGradient(TokenOperand& dy, const LinearWeight& weight, bool add,
                                   float* dx) {
  const Size size = {dy.tokens(), weight.cols, weight.rows};
  const DeviceProduct product = {.a = OnDevice(dy), .b = OnDevice(weight)};
  const int64_t done = MultiplyOnDevice(product, size, add, dx);
  if (done == size.rows) return;
  const MatrixOperand values = {weight.values, weight.cols, 1};
  if (!rounding_) {
    Multiply(size, done, dy.plain(), values, add, dx);
    return;
  }
  Layouts& layouts = layouts_[weight.module];
  if (!layouts.has_backward) {
    layouts.backward.Pack(*rounding_, ProductSide::kRight, values.Transposed(), weight.cols,
                          weight.rows);
    layouts.has_backward = true;
  }
  Multiply(dy.Tokens(*rounding_), layouts.backward, done, add, dx);
}

void LinearProducts::WeightGradient(TokenOperand& dy, TokenOperand& x, bool add, float* gradient) {
  const Size size = {dy.width(), x.width(), x.tokens()};
  const DeviceProduct product = {.a = OnDevice(dy), .b = OnDevice(x), .a_transposed = true};
  const int64_t done = MultiplyOnDevice(product, size, add, gradient);
  if (done == size.rows) return;
  if (!rounding_) {
    Multiply(size, done, dy.plain().Transposed(), x.plain(), add, gradient);
    return;
  }
  if (done > 0) {
    Multiply(*dy.Columns(*rounding_, pool_), *x.Right(*rounding_, pool_), done, add, gradient);
    return;
  }
  auto waiting = std::ranges::find(waiting_, gradient, &WaitingGradient::gradient);
  if (waiting == waiting_.end()) waiting = waiting_.insert(waiting, {gradient, add, {}, {}});
  waiting->left.push_back(dy.Columns(*rounding_, pool_));
  waiting->right.push_back(x.Right(*rounding_, pool_));
  waiting_bytes_ += waiting->left.back()->bytes() + waiting->right.back()->bytes();
  if (waiting_bytes_ > kMostWaiting) FinishWeightGradients();
}

void LinearProducts::FinishWeightGradients() {
  for (const WaitingGradient& waiting : waiting_) {
    std::vector<RoundedPair> pairs;
    int64_t inner = 0;
    for (size_t i = 0; i < waiting.left.size(); ++i) {
      pairs.push_back({waiting.left[i].get(), waiting.right[i].get()});
      inner += waiting.left[i]->inner();
    }
    const int64_t rows = waiting.left.front()->rows(), cols = waiting.right.front()->rows();
    InPieces({rows, cols, inner}, 0, kPiece, [&](int64_t row, int64_t count) {
      MultiplyRounded(pairs, {row, count, cols}, waiting.add, waiting.gradient + row * cols, cols);
    });
  }
  waiting_.clear();
  waiting_bytes_ = 0;
}

}  // namespace quantd::calibration
