// Products of calibration on a device: operands stay in its memory from product to product, and
// every element has the bits that AddMatrixProduct or MultiplyRounded gives (a NaN is a NaN of any
// bits).
#ifndef QUANTD_KERNELS_PRODUCT_DEVICE_H_
#define QUANTD_KERNELS_PRODUCT_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "kernels/matrix_product.h"

namespace quantd {

// A float32 matrix in a device's memory, which goes with the object.
class DeviceMatrix {
 public:
  virtual ~DeviceMatrix() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
};

// C += A B with A and B as they lie on the device, or transposed.
struct DeviceProduct {
  const DeviceMatrix* a = nullptr;
  const DeviceMatrix* b = nullptr;
  bool a_transposed = false, b_transposed = false;
  int64_t first_row = 0;    // of A, for the first row of C; C says how many
  bool upper_only = false;  // of C, what lies below the diagonal may hold anything
  // Sums in the order of MultiplyRounded, of operands that RoundToBFloat16 has rounded.
  bool bfloat16 = false;
};

// Used by one thread at a time. Errors: RESOURCE_EXHAUSTED, with figures, when memory runs out;
// UNAVAILABLE when the device was lost; INVALID_ARGUMENT for shapes that do not fit together.
class ProductDevice {
 public:
  virtual ~ProductDevice() = default;

  virtual std::string id() const = 0;  // "opencl:0"
  // About as many multiplications as take milliseconds: between pieces of so many there is time to
  // ask whether the work is still wanted.
  virtual int64_t piece() const = 0;
  // Whether its float32 units are that many that bfloat16 products belong here too, and not to the
  // CPU, which may have tiles for them.
  virtual bool is_wide() const = 0;
  // RESOURCE_EXHAUSTED when so many bytes, `largest` of them in one piece, are more than the device
  // has, whoever uses it.
  virtual absl::Status CheckRoom(uint64_t bytes, uint64_t largest) const = 0;

  // `to` becomes a copy of `from` [rows, cols], or zeros. The memory of what it held before is used
  // again.
  virtual absl::Status Upload(const MatrixOperand& from, int64_t rows, int64_t cols,
                              std::unique_ptr<DeviceMatrix>& to) = 0;
  virtual absl::Status Zero(int64_t rows, int64_t cols, std::unique_ptr<DeviceMatrix>& to) = 0;
  // As RoundedOperand rounds; in place.
  virtual absl::Status RoundToBFloat16(DeviceMatrix& values) = 0;
  // Submits the work. C was made by Zero, or by Upload of rows that lie along the memory, and is
  // neither operand.
  virtual absl::Status AddProduct(const DeviceProduct& product, DeviceMatrix& c) = 0;
  // Waits; rows go to where `to` says, `stride` apart.
  virtual absl::Status Download(const DeviceMatrix& from, float* to, int64_t stride) = 0;

  // The first error that the caller made up for, by computing on the CPU; for reports.
  const absl::Status& failure() const { return failure_; }
  void NoteFailure(const absl::Status& failure) {
    if (failure_.ok()) failure_ = failure;
  }

 private:
  absl::Status failure_;
};

// FAILED_PRECONDITION when a product of ordinary and of subnormal numbers has other bits than
// AddMatrixProduct gives: a driver that does not compute as it says.
absl::Status CheckProducts(ProductDevice& device);

// Null for "cpu", where AddMatrixProduct is the product. INVALID_ARGUMENT for a name other than
// "cpu", "opencl" and "opencl:N"; FAILED_PRECONDITION, with the reason, when there is no such
// device, or when its arithmetic gives other bits (no fused multiply-add, no subnormals).
absl::StatusOr<std::unique_ptr<ProductDevice>> OpenProductDevice(absl::string_view device);

}  // namespace quantd

#endif  // QUANTD_KERNELS_PRODUCT_DEVICE_H_
