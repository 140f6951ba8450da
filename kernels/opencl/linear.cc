// y = activation(norm(x) W^T + bias) + residual on an OpenCL device.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/opencl/opencl_backend.h"
#include "kernels/opencl/sources.h"

namespace quantd::opencl {
namespace {

constexpr const char* kGemvSources[] = {source::weights, source::epilogue, source::linear_gemv};
constexpr const char* kBlockSources[] = {source::weights, source::epilogue, source::linear_block};
constexpr const char* kGemmSources[] = {source::weights, source::epilogue, source::linear_gemm};
constexpr const char* kElementwiseSources[] = {source::elementwise};
constexpr const char* kNormSources[] = {source::work_group, source::norm};

// Up to this many tokens the weights' traffic dominates and LinearGemv is the better kernel.
constexpr int64_t kMaxGemvTokens = 8;

// Bits of the `flags` argument of epilogue.cl.
constexpr cl_int kHasBias = 1;
constexpr cl_int kHasResidual = 2;
constexpr cl_int kHasDivisor = 4;

absl::Status CheckShape(const DeviceArray& array, int64_t rows, int64_t cols,
                        absl::string_view what) {
  if (array.rows() >= rows && array.cols() == cols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " of a linear is ", array.rows(), " x ",
                                                 array.cols(), ", expected at least ", rows,
                                                 " rows of ", cols));
}

absl::Status CheckSteps(const InputSteps& steps, int64_t cols, int64_t stack) {
  const int64_t size = steps.hadamard_size;
  if (size > 1 && ((size & (size - 1)) != 0 || cols % size != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("runs of ", size, " inputs cannot be rotated in ", cols));
  }
  const bool changed = size > 1 || steps.multiplier != nullptr || steps.order != nullptr;
  if (steps.int8_tokens && changed) {
    return absl::InvalidArgumentError(
        "a linear rotates, scales or orders its inputs and rounds them");
  }
  if (steps.order != nullptr && steps.order->cols() != cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("an order of ", steps.order->cols(), " columns for ", cols, " inputs"));
  }
  if (steps.int8_divisor != nullptr) {
    RETURN_IF_ERROR(CheckShape(*steps.int8_divisor, 1, stack, "the divisor"));
  }
  if (steps.multiplier == nullptr) return absl::OkStatus();
  return CheckShape(*steps.multiplier, 1, cols, "the multiplier");
}

absl::Status CheckLinear(const LinearArgs& args) {
  const bool pairs = args.activation == Activation::kSiluMul;
  const int64_t rows = args.weight->rows();
  if (pairs && rows % 2 != 0) {
    return absl::InvalidArgumentError("gate and up have an odd number of rows");
  }
  const int64_t stack = args.stack_rows > 0 ? args.stack_rows : rows;
  if (args.first_row < 0 || args.first_row + rows > stack || (args.stack_rows > 0 && pairs)) {
    return absl::InvalidArgumentError(absl::StrCat("rows ", args.first_row, " to ",
                                                   args.first_row + rows, " of a stack of ", stack,
                                                   " cannot be multiplied alone"));
  }
  const int64_t width = pairs ? rows / 2 : stack;
  RETURN_IF_ERROR(CheckShape(*args.x, args.tokens, args.weight->cols(), "the input"));
  RETURN_IF_ERROR(CheckShape(*args.y, args.tokens, width, "the output"));
  if (args.bias != nullptr) RETURN_IF_ERROR(CheckShape(*args.bias, 1, stack, "the bias"));
  RETURN_IF_ERROR(CheckSteps(args.steps, args.weight->cols(), stack));
  if (args.residual == nullptr) return absl::OkStatus();
  return CheckShape(*args.residual, args.tokens, width, "the residual");
}

struct LinearLaunch {
  KernelSpec spec;
  Range range;
};

LinearLaunch GemvLaunch(const Segment& segment, int64_t tokens, int activation,
                        const Device& device) {
  const int group = WorkGroupFor(device, 64);
  const int rows = tokens == 1 || device.is_cpu ? 4 : 2;
  const int tokens_per_group = tokens == 1 ? 1 : 4;
  LinearLaunch launch;
  launch.spec = {"LinearGemv", kGemvSources,
                 absl::StrCat(segment.defines, " -DACTIVATION=", activation, " -DWG=", group,
                              " -DROWS=", rows, " -DTOKENS=", tokens_per_group)};
  launch.range.global[0] = (segment.rows + rows - 1) / rows * group;
  launch.range.global[1] = (tokens + tokens_per_group - 1) / tokens_per_group;
  launch.range.local[0] = group;
  launch.range.local[1] = launch.range.local[2] = 1;
  return launch;
}

// The side of the square work-group: what the device's limits of work-items and local memory allow.
int GemmSide(const Device& device) {
  const auto fits = [&](size_t side) {
    const size_t slices = 2 * 32 * (4 * side + 4) * sizeof(float);
    return side * side <= device.max_work_group && slices <= device.local_memory;
  };
  int side = 16;
  while (side > 1 && !fits(side)) side /= 2;
  return side;
}

LinearLaunch GemmLaunch(const Segment& segment, int64_t tokens, int activation,
                        const Device& device) {
  const int side = GemmSide(device);
  const int tile = 4 * side;
  LinearLaunch launch;
  launch.spec = {"LinearGemm", kGemmSources,
                 absl::StrCat(segment.defines, " -DACTIVATION=", activation, " -DSIDE=", side)};
  launch.range.global[0] = (segment.rows + tile - 1) / tile * side;
  launch.range.global[1] = (tokens + tile - 1) / tile * side;
  launch.range.local[0] = launch.range.local[1] = side;
  launch.range.local[2] = 1;
  return launch;
}

LinearLaunch BlockLaunch(const Segment& segment, int64_t tokens, int activation) {
  constexpr int kRows = 4;
  constexpr int kTokens = 32;
  LinearLaunch launch;
  launch.spec = {
      "LinearBlock", kBlockSources,
      absl::StrCat(segment.defines, " -DACTIVATION=", activation, " -DTOKENS=", kTokens)};
  launch.range.global[0] = (segment.rows + kRows - 1) / kRows;
  launch.range.global[1] = (tokens + kTokens - 1) / kTokens;
  launch.range.local[0] = launch.range.local[1] = launch.range.local[2] = 1;
  return launch;
}

LinearLaunch LaunchFor(const Segment& segment, int64_t tokens, int activation,
                       const Device& device) {
  if (tokens <= kMaxGemvTokens) return GemvLaunch(segment, tokens, activation, device);
  if (device.is_cpu) return BlockLaunch(segment, tokens, activation);
  return GemmLaunch(segment, tokens, activation, device);
}

}  // namespace

absl::Status OpenClBackend::RunSegment(const Segment& s, int64_t cols, cl_mem x, int64_t tokens,
                                       const Output& output) {
  const int activation = static_cast<int>(output.activation);
  const LinearLaunch launch = LaunchFor(s, tokens, activation, queue_.device());
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get(launch.spec));
  const auto or_input = [&](const DeviceArray* array) {
    return array != nullptr ? AsCl(*array).buffer().get() : x;
  };
  const cl_int flags = (output.bias != nullptr ? kHasBias : 0) |
                       (output.residual != nullptr ? kHasResidual : 0) |
                       (output.divisor != nullptr ? kHasDivisor : 0);
  const int64_t residual_stride = output.residual != nullptr ? output.residual->cols() : 0;
  return queue_.Run(
      kernel, launch.range, s.chunks.get(), s.scales.get(), s.zeros.get(), s.table.get(),
      cl_int(s.chunks_per_row), cl_int(s.blocks_per_row), cl_float(s.format.post_scale),
      cl_float(s.format.center), cl_int(s.rows), cl_int(cols), x, cl_int(tokens),
      or_input(output.bias), or_input(output.residual), output.y, flags, cl_int(residual_stride),
      cl_int(output.y_stride), cl_int(output.first_row + s.first_row), or_input(output.divisor),
      output.token_steps != nullptr ? output.token_steps : x);
}

absl::Status OpenClBackend::RunSiluMul(cl_mem stacked, const DeviceArray* residual, int64_t tokens,
                                       DeviceArray& y) {
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get({"SiluMul", kElementwiseSources, ""}));
  Range range;
  range.global[0] = y.cols();
  range.global[1] = tokens;
  const cl_mem added = residual != nullptr ? AsCl(*residual).buffer().get() : stacked;
  return queue_.Run(kernel, range, stacked, added, AsCl(y).buffer().get(), cl_int(y.cols()),
                    cl_int(residual != nullptr ? 1 : 0));
}

absl::Status OpenClBackend::SiluMul(const DeviceArray& stacked, int64_t tokens, DeviceArray& y) {
  RETURN_IF_ERROR(CheckShape(stacked, tokens, 2 * y.cols(), "gate and up"));
  RETURN_IF_ERROR(CheckShape(y, tokens, y.cols(), "the output"));
  if (tokens <= 0) return absl::OkStatus();
  return RunSiluMul(AsCl(stacked).buffer().get(), nullptr, tokens, y);
}

absl::StatusOr<cl_mem> OpenClBackend::PrepareInputs(const LinearArgs& args, cl_mem* token_steps) {
  const InputSteps& steps = args.steps;
  const bool changes = steps.multiplier != nullptr || steps.hadamard_size > 1;
  cl_mem x = AsCl(*args.x).buffer().get();
  const bool normed = args.norm.kind != Norm::Kind::kNone || steps.int8_tokens;
  if (!normed && !changes) {
    return steps.order != nullptr ? GatherColumns(x, *steps.order, args.tokens) : x;
  }
  const int64_t cols = args.weight->cols();
  ASSIGN_OR_RETURN(const cl_mem inputs, ScratchBuffer(kNormed, sizeof(float) * args.tokens * cols));
  if (steps.int8_divisor != nullptr) {
    ASSIGN_OR_RETURN(*token_steps, ScratchBuffer(kTokenSteps, sizeof(float) * args.tokens));
  }
  if (normed) {
    RETURN_IF_ERROR(
        RunNorm(*args.x, nullptr, args.norm, steps.int8_tokens, args.tokens, inputs, *token_steps));
    x = inputs;
  }
  if (changes) {
    RETURN_IF_ERROR(ScaleAndRotate(steps, x, cols, args.tokens, inputs));
    x = inputs;
  }
  return steps.order != nullptr ? GatherColumns(x, *steps.order, args.tokens) : x;
}

absl::Status OpenClBackend::ScaleAndRotate(const InputSteps& steps, cl_mem x, int64_t cols,
                                           int64_t tokens, cl_mem y) {
  const bool scaled = steps.multiplier != nullptr;
  const cl_mem multiplier = scaled ? AsCl(*steps.multiplier).buffer().get() : x;
  Range range;
  range.global[1] = tokens;
  if (steps.hadamard_size <= 1) {
    ASSIGN_OR_RETURN(const cl_kernel kernel,
                     programs_.Get({"ScaleColumns", kElementwiseSources, ""}));
    range.global[0] = cols;
    return queue_.Run(kernel, range, x, multiplier, y, cl_int(cols));
  }
  const int group = WorkGroupFor(queue_.device(), 128);
  ASSIGN_OR_RETURN(const cl_kernel kernel,
                   programs_.Get({"PrepareInputs", kNormSources, absl::StrCat("-DWG=", group)}));
  const int64_t size = steps.hadamard_size;
  range.global[0] = cols / size * group;
  range.local[0] = group;
  range.local[1] = range.local[2] = 1;
  return queue_.Run(kernel, range, x, multiplier, y, cl_int(cols), cl_int(size),
                    cl_int(scaled ? 1 : 0));
}

absl::Status OpenClBackend::Linear(const LinearArgs& args) {
  RETURN_IF_ERROR(CheckLinear(args));
  if (args.tokens <= 0) return absl::OkStatus();
  const ClWeight& weight = AsCl(*args.weight);
  cl_mem token_steps = nullptr;
  ASSIGN_OR_RETURN(const cl_mem x, PrepareInputs(args, &token_steps));
  const bool pairs = args.activation == Activation::kSiluMul;
  Output output{.bias = args.bias,
                .y_stride = args.stack_rows > 0 ? args.stack_rows : weight.rows(),
                .first_row = args.first_row,
                .divisor = args.steps.int8_divisor,
                .token_steps = token_steps};
  if (pairs) {
    ASSIGN_OR_RETURN(output.y,
                     ScratchBuffer(kStacked, sizeof(float) * args.tokens * weight.rows()));
  } else {
    output.y = AsCl(*args.y).buffer().get();
    output.activation = args.activation;
    output.residual = args.residual;
  }
  for (const Segment& segment : weight.segments()) {
    RETURN_IF_ERROR(RunSegment(segment, weight.cols(), x, args.tokens, output));
  }
  return pairs ? RunSiluMul(output.y, args.residual, args.tokens, *args.y) : absl::OkStatus();
}

}  // namespace quantd::opencl
