#include "kernels/cpu/backend.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/cpu_quota.h"
#include "core/hadamard.h"
#include "core/parallel.h"
#include "kernels/cpu/arrays.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/cpu/linear.h"

namespace quantd {
namespace cpu {
namespace {

// The processor's own name, "CPU" where the system does not tell.
std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

DeviceInfo Describe(const KernelTable& kernels) {
  DeviceInfo info;
  info.id = "cpu";
  const std::string extensions = kernels.extensions();
  info.description =
      absl::StrCat(ProcessorName(), " (", kernels.name, extensions.empty() ? "" : ": ", extensions,
                   "), ", ComputeThreads(), " threads");
  struct sysinfo system {};
  if (sysinfo(&system) == 0) {
    info.memory_bytes = uint64_t{system.totalram} * system.mem_unit;
    info.free_bytes = uint64_t{system.freeram + system.bufferram} * system.mem_unit;
  }
  if (const auto limit = CgroupMemoryLimit()) {
    info.memory_bytes = std::min(info.memory_bytes, *limit);
    info.free_bytes = std::min(info.free_bytes, *limit);
  }
  return info;
}

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const KernelTable& kernels)
      : kernels_(kernels), linear_(kernels), attention_(kernels) {}

  DeviceInfo info() const override { return Describe(kernels_); }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(std::span<const Weight* const> parts,
                                                     const PackOptions& options) override {
    if (parts.empty()) return absl::InvalidArgumentError("nothing to pack");
    std::vector<PackedMatrix> matrices;
    for (const Weight* part : parts) {
      if (ColsOf(*part) != ColsOf(*parts.front())) {
        return absl::InvalidArgumentError(absl::StrCat("parts of ", ColsOf(*parts.front()), " and ",
                                                       ColsOf(*part),
                                                       " columns cannot be stacked"));
      }
      ASSIGN_OR_RETURN(PackedMatrix matrix, PackMatrix(*part, options.compute, arena_));
      matrices.push_back(std::move(matrix));
    }
    return std::make_unique<CpuWeight>(std::move(matrices));
  }

  absl::StatusOr<std::unique_ptr<DeviceArray>> Allocate(int64_t rows, int64_t cols) override {
    int64_t bytes = 0;
    if (rows < 0 || cols < 0 || __builtin_mul_overflow(rows, cols, &bytes) ||
        __builtin_mul_overflow(bytes, int64_t{4}, &bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot allocate an array of [", rows, ", ", cols, "]"));
    }
    ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(static_cast<size_t>(bytes)));
    return std::make_unique<CpuArray>(rows, cols, std::move(buffer));
  }

  absl::StatusOr<std::unique_ptr<ColumnOrder>> UploadOrder(
      std::span<const int32_t> order) override {
    for (const int32_t col : order) {
      if (col >= 0 && static_cast<size_t>(col) < order.size()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("an order of ", order.size(), " columns has a column ", col));
    }
    return std::make_unique<CpuOrder>(std::vector<int32_t>(order.begin(), order.end()));
  }

  absl::StatusOr<std::unique_ptr<KvCache>> CreateKvCache(const KvShape& shape) override {
    return CpuKvCache::Create(shape);
  }

  absl::Status Upload(std::span<const float> values, DeviceArray& to) override {
    if (static_cast<int64_t>(values.size()) > to.rows() * to.cols()) {
      return absl::InvalidArgumentError(absl::StrCat(
          values.size(), " values do not fit an array of [", to.rows(), ", ", to.cols(), "]"));
    }
    if (!values.empty()) std::memcpy(AsCpu(to).data(), values.data(), values.size_bytes());
    return absl::OkStatus();
  }

  absl::Status Download(const DeviceArray& from, int64_t first, int64_t count,
                        std::span<float> out) override {
    if (first < 0 || count < 0 || first > from.rows() - count ||
        static_cast<int64_t>(out.size()) < count * from.cols()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows ", first, " to ", first + count, " of an array of [", from.rows(),
                       ", ", from.cols(), "] do not fit ", out.size(), " values"));
    }
    std::copy_n(AsCpu(from).row(first), count * from.cols(), out.data());
    return absl::OkStatus();
  }

  absl::Status Embed(const PackedWeight& table, std::span<const int32_t> ids,
                     DeviceArray& y) override {
    const int64_t count = static_cast<int64_t>(ids.size());
    if (y.rows() < count || y.cols() != table.cols()) {
      return absl::InvalidArgumentError("embed: the result has another shape");
    }
    for (const int32_t id : ids) {
      if (id < 0 || id >= table.rows()) {
        return absl::InvalidArgumentError(
            absl::StrCat("embed: id ", id, " is not in a table of ", table.rows(), " rows"));
      }
    }
    ForEachRow(count, [&](int64_t i) {
      int64_t row = ids[static_cast<size_t>(i)];
      for (const PackedMatrix& part : AsCpu(table).parts()) {
        if (row < part.rows) return UnpackRow(part, row, AsCpu(y).row(i));
        row -= part.rows;
      }
    });
    return absl::OkStatus();
  }

  absl::Status Linear(const LinearArgs& args) override { return linear_.Run(args); }
  absl::Status Attention(const AttentionArgs& args) override { return attention_.Run(args); }

  absl::Status Normalize(const DeviceArray& x, const DeviceArray* residual, const Norm& norm,
                         int64_t tokens, DeviceArray& y) override {
    const int64_t cols = x.cols();
    const auto fits = [cols](const DeviceArray* array, int64_t rows) {
      return array == nullptr || (array->rows() >= rows && array->cols() == cols);
    };
    if (!fits(&x, tokens) || !fits(residual, tokens) || !fits(&y, tokens) ||
        !fits(norm.weight, 1) || !fits(norm.bias, 1)) {
      return absl::InvalidArgumentError("normalize: the shapes do not fit together");
    }
    const RowNorm plain = PlainNorm(norm);
    ForEachRow(tokens, [&](int64_t i) {
      const float* from = AsCpu(x).row(i);
      float* to = AsCpu(y).row(i);
      if (residual != nullptr) {
        const float* add = AsCpu(*residual).row(i);
        for (int64_t c = 0; c < cols; ++c) to[c] = from[c] + add[c];
        from = to;
      }
      kernels_.normalize(from, cols, plain, to);
    });
    return absl::OkStatus();
  }

  absl::Status RoundInputs(const DeviceArray& x, const InputRounding& rounding, int64_t tokens,
                           DeviceArray& y) override {
    if (x.rows() < tokens || y.rows() < tokens || x.cols() != y.cols()) {
      return absl::InvalidArgumentError("rounding of inputs: the shapes do not fit together");
    }
    ForEachRow(tokens, [&](int64_t i) {
      quantd::RoundInputs(rounding, AsCpu(x).row(i), x.cols(), AsCpu(y).row(i));
    });
    return absl::OkStatus();
  }

  absl::Status RotateInputs(const DeviceArray& x, const DeviceArray& matrix, int64_t tokens,
                            DeviceArray& y) override {
    RETURN_IF_ERROR(CheckRotation(x, matrix, tokens, y));
    ForEachRow(tokens, [&](int64_t i) {
      MultiplyByMatrix(AsCpu(x).row(i), x.cols(), AsCpu(matrix).data(), matrix.rows(),
                       AsCpu(y).row(i));
    });
    return absl::OkStatus();
  }

  absl::Status SiluMul(const DeviceArray& stacked, int64_t tokens, DeviceArray& y) override {
    const int64_t width = y.cols();
    if (stacked.cols() != 2 * width || stacked.rows() < tokens || y.rows() < tokens) {
      return absl::InvalidArgumentError("silu mul: the shapes do not fit together");
    }
    ForEachRow(tokens, [&](int64_t i) {
      float* to = AsCpu(y).row(i);
      std::copy_n(AsCpu(stacked).row(i), width, to);
      kernels_.silu_mul(to, AsCpu(stacked).row(i) + width, width);
    });
    return absl::OkStatus();
  }

  absl::Status GatherRows(const DeviceArray& x, std::span<const int32_t> rows,
                          DeviceArray& y) override {
    if (y.rows() < static_cast<int64_t>(rows.size()) || y.cols() != x.cols()) {
      return absl::InvalidArgumentError("gather: the result has another shape");
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0 || rows[i] >= x.rows()) {
        return absl::InvalidArgumentError(absl::StrCat("gather: no row ", rows[i]));
      }
      std::copy_n(AsCpu(x).row(rows[i]), x.cols(), AsCpu(y).row(static_cast<int64_t>(i)));
    }
    return absl::OkStatus();
  }

 private:
  // Shares rows among the team when there are enough to pay for it.
  void ForEachRow(int64_t rows, absl::FunctionRef<void(int64_t)> body) {
    constexpr int64_t kFew = 4;
    if (rows > kFew) return ParallelFor(rows, body);
    for (int64_t i = 0; i < rows; ++i) body(i);
  }

  const KernelTable& kernels_;
  Arena arena_;
  LinearRunner linear_;
  AttentionRunner attention_;
};

}  // namespace
}  // namespace cpu

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend() {
  ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::SelectKernelTable());
  return std::make_unique<cpu::CpuBackend>(*kernels);
}

DeviceInfo CpuDeviceInfo() {
  const auto kernels = cpu::SelectKernelTable();
  return cpu::Describe(kernels.ok() ? **kernels : cpu::scalar::Table());
}

}  // namespace quantd
