// Inputs rotated and rounded as a checkpoint asks for, on an OpenCL device.
#include "absl/strings/str_cat.h"
#include "kernels/opencl/opencl_backend.h"
#include "kernels/opencl/sources.h"

namespace quantd::opencl {
namespace {

constexpr const char* kSources[] = {source::work_group, source::round_inputs};
constexpr const char* kFp4Sources[] = {source::fp4_inputs};

// Bits of the `flags` argument.
constexpr cl_int kSymmetric = 1;
constexpr cl_int kByReciprocal = 2;

std::string DefinesOf(const InputRounding& rounding, int group) {
  std::string defines = absl::StrCat("-DWG=", group, rounding.dynamic ? " -DDYNAMIC=1" : "");
  if (rounding.values == InputRounding::Values::kInteger) return defines;
  const SmallFloat format = SmallFloatOf(rounding.values);
  return absl::StrCat(defines, " -DMANTISSA=", format.mantissa_bits, " -DLEAST=(",
                      format.least_exponent, ")");
}

}  // namespace

absl::Status OpenClBackend::RoundInputs(const DeviceArray& x, const InputRounding& rounding,
                                        int64_t tokens, DeviceArray& y) {
  const int64_t cols = x.cols();
  if (x.rows() < tokens || y.rows() < tokens || y.cols() != cols) {
    return absl::InvalidArgumentError("rounding of inputs: the shapes do not fit together");
  }
  if (tokens <= 0) return absl::OkStatus();
  if (rounding.fp4.any()) return RoundToFp4(x, rounding.fp4, tokens, y);
  const int lanes = WorkGroupFor(queue_.device(), 128);
  ASSIGN_OR_RETURN(const cl_kernel kernel,
                   programs_.Get({"RoundInputs", kSources, DefinesOf(rounding, lanes)}));
  const int64_t group = rounding.dynamic && rounding.group > 0 ? rounding.group : cols;
  Range range;
  range.global[0] = static_cast<size_t>((cols + group - 1) / group) * lanes;
  range.global[1] = static_cast<size_t>(tokens);
  range.local[0] = lanes;
  range.local[1] = range.local[2] = 1;
  const cl_int flags =
      (rounding.symmetric ? kSymmetric : 0) | (rounding.by_reciprocal ? kByReciprocal : 0);
  return queue_.Run(kernel, range, AsCl(x).buffer().get(), AsCl(y).buffer().get(), cl_int(cols),
                    cl_int(group), flags, cl_float(LowOf(rounding)), cl_float(HighOf(rounding)),
                    cl_float(rounding.dynamic ? rounding.global_scale : rounding.scale),
                    cl_float(rounding.zero_point), cl_float(rounding.upper_bound),
                    cl_float(rounding.least_scale));
}

absl::Status OpenClBackend::RoundToFp4(const DeviceArray& x, const Fp4Blocks& blocks,
                                       int64_t tokens, DeviceArray& y) {
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get({"RoundToFp4", kFp4Sources, ""}));
  Range range;
  range.global[0] = static_cast<size_t>((x.cols() + blocks.size() - 1) / blocks.size());
  range.global[1] = static_cast<size_t>(tokens);
  return queue_.Run(kernel, range, AsCl(x).buffer().get(), AsCl(y).buffer().get(), cl_int(x.cols()),
                    cl_int(blocks.size()), cl_int(blocks.scale),
                    cl_int(blocks.half_to_even ? 1 : 0), cl_float(blocks.global_scale));
}

absl::Status OpenClBackend::RotateInputs(const DeviceArray& x, const DeviceArray& matrix,
                                         int64_t tokens, DeviceArray& y) {
  RETURN_IF_ERROR(CheckRotation(x, matrix, tokens, y));
  if (tokens <= 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get({"RotateInputs", kFp4Sources, ""}));
  Range range;
  range.global[0] = static_cast<size_t>(x.cols());
  range.global[1] = static_cast<size_t>(tokens);
  return queue_.Run(kernel, range, AsCl(x).buffer().get(), AsCl(matrix).buffer().get(),
                    AsCl(y).buffer().get(), cl_int(x.cols()), cl_int(matrix.rows()));
}

}  // namespace quantd::opencl
