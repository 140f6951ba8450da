#include "kernels/opencl/matrix_product.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/opencl/buffer.h"
#include "kernels/opencl/program_cache.h"
#include "kernels/opencl/sources.h"

namespace quantd {
namespace opencl {
namespace {

constexpr const char* kSources[] = {source::matrix_product};
constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 256;  // tiles past the end have indexes too

constexpr int kPanel = 32, kTaskRows = 96;  // as in matrix_product.cl, on CPUs
constexpr int kDepth = 16;                  // and on GPUs

class Matrix final : public DeviceMatrix {
 public:
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  // Of floats.
  int64_t row_stride() const { return by_columns_ ? 1 : cols_; }
  int64_t col_stride() const { return by_columns_ ? rows_ : 1; }
  uint64_t bytes() const { return sizeof(float) * static_cast<uint64_t>(rows_ * cols_); }
  const Buffer& buffer() const { return buffer_; }

  // Its content is void. `by_columns`: columns lie along the memory.
  absl::Status Resize(int64_t rows, int64_t cols, bool by_columns, Queue& queue) {
    rows_ = rows;
    cols_ = cols;
    by_columns_ = by_columns;
    if (buffer_.get() != nullptr && buffer_.bytes() >= bytes()) return absl::OkStatus();
    buffer_ = Buffer();
    ASSIGN_OR_RETURN(buffer_,
                     queue.Allocate(bytes(), absl::StrCat("a matrix of ", rows, " x ", cols)));
    return absl::OkStatus();
  }

 private:
  int64_t rows_ = 0, cols_ = 0;
  bool by_columns_ = false;
  Buffer buffer_;
};

const Matrix& AsCl(const DeviceMatrix& matrix) { return static_cast<const Matrix&>(matrix); }

// Of `wanted`, which becomes one if it is not there.
Matrix& MatrixOf(std::unique_ptr<DeviceMatrix>& wanted) {
  if (wanted == nullptr) wanted = std::make_unique<Matrix>();
  return static_cast<Matrix&>(*wanted);
}

// A copy whose rows lie along the memory.
std::vector<float> Gathered(const MatrixOperand& from, int64_t rows, int64_t cols) {
  std::vector<float> values(static_cast<size_t>(rows * cols));
  ParallelFor(rows, [&](int64_t row) {
    const float* line = from.data + row * from.row_stride;
    for (int64_t c = 0; c < cols; ++c) values[row * cols + c] = line[c * from.col_stride];
  });
  return values;
}

// How a launch is cut, as the device's kind, work-groups and local memory allow.
struct Tiling {
  int side = 0;              // of the square work-group; 0: groups of one, on CPUs
  int down = 2, across = 2;  // blocks of four by four of a work-item
  bool bfloat16 = false;     // two chains of every element

  std::string defines() const {
    return absl::StrCat(side == 0
                            ? absl::StrCat("-DTASK_ROWS=", kTaskRows)
                            : absl::StrCat("-DSIDE=", side, " -DDOWN=", down, " -DACROSS=", across),
                        bfloat16 ? " -DBFLOAT16" : "");
  }
  Range RangeOf(int64_t rows, int64_t cols) const {
    const int64_t unit = std::max(side, 1);
    const int64_t height = side == 0 ? kTaskRows : 4 * down * side;
    const int64_t width = side == 0 ? kPanel : 4 * across * side;
    Range range;
    range.global[0] = static_cast<size_t>((cols + width - 1) / width * unit);
    range.global[1] = static_cast<size_t>((rows + height - 1) / height * unit);
    range.local[0] = range.local[1] = static_cast<size_t>(unit);
    range.local[2] = 1;
    return range;
  }
};

Tiling TilingFor(const Device& device, bool bfloat16) {
  Tiling tiling = {.bfloat16 = bfloat16};
  if (device.is_cpu) return tiling;
  const auto fits = [&device](int side, int blocks) {
    const auto slices = static_cast<uint64_t>(kDepth * (4 * blocks * side + 8)) * sizeof(float);
    return static_cast<size_t>(side * side) <= device.max_work_group &&
           slices <= device.local_memory;
  };
  tiling.side = 16;
  while (tiling.side > 1 && !fits(tiling.side, 2)) tiling.side /= 2;
  // Registers for one more chain of every element are half as many elements'.
  if (bfloat16) tiling.across = 1;
  if (!fits(tiling.side, tiling.down + tiling.across)) tiling.down = tiling.across = 1;
  return tiling;
}

class Products final : public ProductDevice {
 public:
  Products(Queue queue, std::string id)
      : queue_(std::move(queue)),
        programs_(queue_.context(), queue_.device().id),
        id_(std::move(id)),
        float32_(TilingFor(queue_.device(), false)),
        bfloat16_(TilingFor(queue_.device(), true)) {}

  // Builds the kernels, so that a driver that cannot is known at once.
  absl::Status Build() {
    RETURN_IF_ERROR(KernelOf(float32_).status());
    return is_wide() ? KernelOf(bfloat16_).status() : absl::OkStatus();
  }

  std::string id() const override { return id_; }
  int64_t piece() const override { return int64_t{1} << (queue_.device().is_cpu ? 31 : 35); }

  bool is_wide() const override { return !queue_.device().is_cpu; }

  absl::Status CheckRoom(uint64_t bytes, uint64_t largest) const override {
    const Device& device = queue_.device();
    if (bytes <= device.global_memory && largest <= device.max_allocation) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "products need ", bytes, " bytes, ", largest, " of them in one piece; ", id_, " (",
        device.name, ") has ", device.global_memory, " and allows ", device.max_allocation,
        " in one piece; choose another device or shorter sequences"));
  }

  absl::Status Upload(const MatrixOperand& from, int64_t rows, int64_t cols,
                      std::unique_ptr<DeviceMatrix>& to) override {
    RETURN_IF_ERROR(CheckDimensions(rows, cols));
    const bool by_rows = from.col_stride == 1 && (from.row_stride >= cols || rows <= 1);
    const bool by_columns = !by_rows && from.row_stride == 1 && from.col_stride >= rows;
    Matrix& matrix = MatrixOf(to);
    RETURN_IF_ERROR(matrix.Resize(rows, cols, by_columns, queue_));
    if (!by_rows && !by_columns) {
      const std::vector<float> values = Gathered(from, rows, cols);
      return queue_.Write(matrix.buffer(), 0, std::as_bytes(std::span(values)));
    }
    return queue_.WriteLines(
        matrix.buffer(), from.data,
        by_rows ? Lines(cols, rows, from.row_stride) : Lines(rows, cols, from.col_stride));
  }

  absl::Status Zero(int64_t rows, int64_t cols, std::unique_ptr<DeviceMatrix>& to) override {
    RETURN_IF_ERROR(CheckDimensions(rows, cols));
    Matrix& matrix = MatrixOf(to);
    RETURN_IF_ERROR(matrix.Resize(rows, cols, false, queue_));
    return queue_.Clear(matrix.buffer(), matrix.bytes());
  }

  absl::Status RoundToBFloat16(DeviceMatrix& values) override {
    const Matrix& matrix = AsCl(values);
    const int64_t count = matrix.rows() * matrix.cols();
    if (count > kMaxDimension) {
      return absl::InvalidArgumentError("a matrix of 2^31 elements and more cannot be rounded");
    }
    ASSIGN_OR_RETURN(const cl_kernel kernel,
                     programs_.Get({"RoundToBFloat16", kSources, bfloat16_.defines()}));
    Range range;
    range.global[0] = static_cast<size_t>(count);
    return queue_.Run(kernel, range, matrix.buffer().get(), cl_int(count));
  }

  absl::Status AddProduct(const DeviceProduct& product, DeviceMatrix& c) override {
    const Operand a = OperandOf(*product.a, product.a_transposed);
    const Operand b = OperandOf(*product.b, product.b_transposed);
    const Matrix& to = AsCl(c);
    if (product.first_row < 0 || product.first_row > a.rows - to.rows() || a.cols != b.rows ||
        b.cols != to.cols() || to.col_stride() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a product of ", a.rows, " x ", a.cols, ", from row ", product.first_row, ", and ",
          b.rows, " x ", b.cols, " does not fit a matrix of ", to.rows(), " x ", to.cols()));
    }
    const Tiling& tiling = product.bfloat16 ? bfloat16_ : float32_;
    ASSIGN_OR_RETURN(const cl_kernel kernel, KernelOf(tiling));
    return queue_.Run(kernel, tiling.RangeOf(to.rows(), to.cols()), a.memory,
                      cl_int(product.first_row), cl_int(a.row_stride), cl_int(a.col_stride),
                      b.memory, cl_int(b.row_stride), cl_int(b.col_stride), to.buffer().get(),
                      cl_int(to.row_stride()), cl_int(to.rows()), cl_int(to.cols()), cl_int(a.cols),
                      cl_int(product.upper_only ? 1 : 0));
  }

  absl::Status Download(const DeviceMatrix& from, float* to, int64_t stride) override {
    const Matrix& matrix = AsCl(from);
    if (matrix.col_stride() != 1 || stride < matrix.cols()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a matrix of ", matrix.rows(), " x ", matrix.cols(), " into rows ", stride, " apart"));
    }
    return queue_.ReadLines(matrix.buffer(), to, Lines(matrix.cols(), matrix.rows(), stride));
  }

 private:
  // One side of a product, turned as it is multiplied.
  struct Operand {
    cl_mem memory;
    int64_t rows, cols, row_stride, col_stride;
  };
  static Operand OperandOf(const DeviceMatrix& matrix, bool transposed) {
    const Matrix& m = AsCl(matrix);
    if (transposed) {
      return {m.buffer().get(), m.cols(), m.rows(), m.col_stride(), m.row_stride()};
    }
    return {m.buffer().get(), m.rows(), m.cols(), m.row_stride(), m.col_stride()};
  }

  static absl::Status CheckDimensions(int64_t rows, int64_t cols) {
    if (rows > 0 && cols > 0 && rows <= kMaxDimension && cols <= kMaxDimension) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", rows, " x ", cols, " cannot be multiplied on a device"));
  }
  // Of floats.
  static HostLines Lines(int64_t length, int64_t count, int64_t stride) {
    return {sizeof(float) * static_cast<uint64_t>(length), static_cast<uint64_t>(count),
            sizeof(float) * static_cast<uint64_t>(stride)};
  }

  absl::StatusOr<cl_kernel> KernelOf(const Tiling& tiling) {
    return programs_.Get({"MatrixProduct", kSources, tiling.defines()});
  }

  Queue queue_;
  ProgramCache programs_;
  const std::string id_;
  const Tiling float32_, bfloat16_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ProductDevice>> CreateProducts(const Device& device,
                                                              std::string id) {
  const char* lack = !device.has_fma          ? "fused multiply-adds"
                     : !device.has_subnormals ? "subnormal numbers"
                                              : nullptr;
  if (lack != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", id, " (", device.name, ") has no ", lack,
                     ": its products would have other bits than the CPU's; choose device \"cpu\""));
  }
  ASSIGN_OR_RETURN(Queue queue, Queue::Create(device));
  auto products = std::make_unique<Products>(std::move(queue), std::move(id));
  RETURN_IF_ERROR(products->Build());
  return products;
}

}  // namespace opencl

absl::StatusOr<std::unique_ptr<ProductDevice>> OpenOpenClProducts(int index) {
  ASSIGN_OR_RETURN(const opencl::Device device, opencl::FindDevice(index));
  return opencl::CreateProducts(device, absl::StrCat("opencl:", index));
}

}  // namespace quantd
