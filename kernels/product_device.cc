#include "kernels/product_device.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#ifdef QUANTD_HAVE_OPENCL
#include "kernels/opencl/matrix_product.h"
#endif

namespace quantd {
namespace {

absl::StatusOr<std::unique_ptr<ProductDevice>> OpenOpenCl(int index) {
#ifdef QUANTD_HAVE_OPENCL
  return OpenOpenClProducts(index);
#else
  return absl::FailedPreconditionError(absl::StrCat(
      "device opencl:", index, " is not available: built without OpenCL; use \"cpu\""));
#endif
}

// Numbers around 2^exponent, whose products and sums need rounding.
std::vector<float> Numbers(int64_t count, int exponent) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t random = 12345;
  for (float& value : values) {
    random = random * 1664525 + 1013904223;
    const auto fraction = static_cast<float>(static_cast<int32_t>(random) >> 8) / (1 << 23);
    value = std::ldexp(fraction, exponent + static_cast<int>(random % 7) - 3);
  }
  return values;
}

}  // namespace

absl::Status CheckProducts(ProductDevice& device) {
  constexpr int64_t kRows = 9, kCols = 37, kInner = 270;
  std::unique_ptr<DeviceMatrix> a, b, c;
  for (const int exponent : {0, -70}) {
    const std::vector<float> left = Numbers(kRows * kInner, exponent);
    const std::vector<float> right = Numbers(kInner * kCols, exponent);
    const MatrixOperand as = {left.data(), kInner, 1}, bs = {right.data(), kCols, 1};
    std::vector<float> expected(kRows * kCols), found(kRows * kCols);
    AddMatrixProduct(kRows, kCols, kInner, as, bs, expected.data(), kCols);
    RETURN_IF_ERROR(device.Upload(as, kRows, kInner, a));
    RETURN_IF_ERROR(device.Upload(bs, kInner, kCols, b));
    RETURN_IF_ERROR(device.Zero(kRows, kCols, c));
    RETURN_IF_ERROR(device.AddProduct({.a = a.get(), .b = b.get()}, *c));
    RETURN_IF_ERROR(device.Download(*c, found.data(), kCols));
    if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", device.id(), " gives products of ", exponent < 0 ? "subnormal" : "ordinary",
        " numbers other bits than the CPU does; choose device \"cpu\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ProductDevice>> OpenProductDevice(absl::string_view device) {
  ASSIGN_OR_RETURN(const std::optional<int> number, OpenClNumber(device));
  if (!number) return nullptr;
  ASSIGN_OR_RETURN(std::unique_ptr<ProductDevice> products, OpenOpenCl(*number));
  RETURN_IF_ERROR(CheckProducts(*products));
  return products;
}

}  // namespace quantd
