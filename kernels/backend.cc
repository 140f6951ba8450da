#include "kernels/backend.h"

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/cpu/backend.h"
#ifdef QUANTD_HAVE_OPENCL
#include "kernels/opencl/backend.h"
#endif

namespace quantd {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> CreateOpenCl(int index) {
#ifdef QUANTD_HAVE_OPENCL
  return CreateOpenClBackend(index);
#else
  return absl::FailedPreconditionError(absl::StrCat(
      "device opencl:", index, " is not available: built without OpenCL; use \"cpu\""));
#endif
}

}  // namespace

absl::Status CheckRotation(const DeviceArray& x, const DeviceArray& matrix, int64_t tokens,
                           const DeviceArray& y) {
  if (matrix.rows() >= 1 && matrix.rows() == matrix.cols() && x.cols() % matrix.rows() == 0 &&
      x.cols() == y.cols() && x.rows() >= tokens && y.rows() >= tokens && &x != &y) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("rotation of inputs: the shapes do not fit together");
}

absl::string_view LayoutName(Layout layout) {
  switch (layout) {
    case Layout::kDense:
      return "dense";
    case Layout::kInt8Row:
      return "int8_row";
    case Layout::kIntGroup:
      return "int_group";
    case Layout::kLut4:
      return "lut4";
    case Layout::kFp8:
      return "fp8";
    case Layout::kVecLut:
      return "vec_lut";
  }
  return "unknown";
}

int64_t RowsOf(const Weight& weight) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) return quantized->rows;
  const Shape& shape = std::get<Tensor>(weight).shape;
  return shape.empty() ? 0 : shape[0];
}

int64_t ColsOf(const Weight& weight) {
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) return quantized->cols;
  const Shape& shape = std::get<Tensor>(weight).shape;
  return shape.size() < 2 ? 0 : NumElements({shape.begin() + 1, shape.end()});
}

absl::StatusOr<std::optional<int>> OpenClNumber(absl::string_view device) {
  if (device == "cpu") return std::nullopt;
  if (device == "opencl") return 0;
  absl::string_view number = device;
  int index = 0;
  if (absl::ConsumePrefix(&number, "opencl:") && !number.empty() &&
      number.find_first_not_of("0123456789") == absl::string_view::npos &&
      absl::SimpleAtoi(number, &index)) {
    return index;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown device \"", absl::Utf8SafeCEscape(device.substr(0, 200)),
                   "\": expected \"cpu\", \"opencl\" or \"opencl:N\""));
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view device) {
  ASSIGN_OR_RETURN(const std::optional<int> number, OpenClNumber(device));
  return number ? CreateOpenCl(*number) : CreateCpuBackend();
}

std::string ResolveDevice(const std::string& device) {
  if (device != "auto") return device;
  for (const DeviceInfo& info : ListDevices()) {
    if (info.is_gpu) return info.id;
  }
  return "cpu";
}

std::vector<DeviceInfo> ListDevices() {
  std::vector<DeviceInfo> devices = {CpuDeviceInfo()};
#ifdef QUANTD_HAVE_OPENCL
  for (DeviceInfo& device : ListOpenClDevices()) devices.push_back(std::move(device));
#endif
  return devices;
}

}  // namespace quantd
