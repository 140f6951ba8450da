#include "quantizers/solvers/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/float_buffer.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/linear_algebra/triangular.h"
#include "kernels/matrix_product.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/gptq_grid.h"
#include "quantizers/solvers/gptq_order.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int64_t kBlock = 128;  // columns between two updates of the rest; upstream's blocksize
constexpr int64_t kRowsPerTask = 16;
constexpr int kFloorAttempts = 6;

// A matrix on its way, columns in the order of the solver.
class GptqSolver {
 public:
  GptqSolver(const TensorView& weight, const GptqSpec& spec, const GptqInputs& inputs)
      : spec_(spec),
        inputs_(inputs),
        rows_(weight.shape[0]),
        cols_(weight.shape[1]),
        groups_(rows_, cols_, spec),
        weights_(static_cast<size_t>(rows_ * cols_)),
        codes_(weights_.size()),
        grids_(static_cast<size_t>(rows_ * groups_.count())) {
    ParallelFor(rows_, [&](int64_t row) {
      LoadFloats(weight, row * cols_, cols_, weights_.data() + row * cols_);
    });
  }

  absl::StatusOr<GptqResult> Solve() {
    GptqResult result;
    if (groups_.whole_rows()) FindGrids(0);
    Prepare();
    if (spec_.static_groups && !groups_.whole_rows()) FindStaticGrids();
    Reorder();
    RETURN_IF_ERROR(Factor(&result));
    for (int64_t begin = 0; begin < cols_; begin += kBlock) {
      RETURN_IF_ERROR(CheckStopped(inputs_.stopped));
      const int64_t end = std::min(cols_, begin + kBlock);
      std::vector<float> errors(static_cast<size_t>(rows_ * (end - begin)));
      RoundBlock(begin, end, errors.data());
      // Errors come negated: the rest of the columns takes up what was lost.
      AddMatrixProduct(rows_, cols_ - end, end - begin, {errors.data(), end - begin, 1},
                       {factor_.data() + begin * cols_ + end, cols_, 1}, weights_.data() + end,
                       cols_);
    }
    result.weight = Finish();
    return result;
  }

  // Without inputs: every group by itself.
  QuantizedTensor Round() {
    std::iota(order_.begin(), order_.end(), 0);
    for (int64_t group = 0; group < groups_.count(); ++group) FindGrids(group);
    const float most = Most();
    ParallelFor(rows_, [&](int64_t row) {
      for (int64_t col = 0; col < cols_; ++col) {
        const GptqGrid& grid = grids_[row * groups_.count() + col / groups_.size()];
        codes_[row * cols_ + col] =
            static_cast<uint8_t>(grid.CodeOf(weights_[row * cols_ + col], most));
      }
    });
    return Finish();
  }

 private:
  float Most() const { return static_cast<float>((1 << spec_.bits) - 1); }

  GptqGrid FindGrid(const float* weights, int64_t count) const {
    return FindGptqGrid(weights, count, spec_.bits, spec_.sym, spec_.mse);
  }

  // Grids of a group of neighbours, of all rows.
  void FindGrids(int64_t group) {
    const int64_t first = group * groups_.size();
    const int64_t count = std::min(groups_.size(), cols_ - first);
    ParallelFor(rows_, [&](int64_t row) {
      grids_[row * groups_.count() + group] =
          FindGrid(weights_.data() + row * cols_ + first, count);
    });
  }

  void FindStaticGrids() {
    for (int64_t group = 0; group < groups_.count(); ++group) FindGrids(group);
  }

  // Mean square of an input channel, twice; columns whose input was always zero are taken out.
  void Prepare() {
    moment_scale_ = static_cast<float>(2.0 / static_cast<double>(inputs_.tokens));
    diagonal_.resize(static_cast<size_t>(cols_));
    for (int64_t i = 0; i < cols_; ++i) {
      diagonal_[i] = inputs_.gram[i * cols_ + i] * moment_scale_;
      if (diagonal_[i] != 0) continue;
      diagonal_[i] = 1;
      for (int64_t row = 0; row < rows_; ++row) weights_[row * cols_ + i] = 0;
    }
  }

  void Reorder() {
    order_ = GptqColumnOrder(diagonal_, spec_, groups_);
    const std::vector<float> diagonal = diagonal_;
    for (int64_t c = 0; c < cols_; ++c) diagonal_[c] = diagonal[order_[c]];
    ParallelFor(rows_, [&](int64_t row) {
      float* line = weights_.data() + row * cols_;
      const std::vector<float> original(line, line + cols_);
      for (int64_t c = 0; c < cols_; ++c) line[c] = original[order_[c]];
    });
  }

  // Makes the upper factor of the inverse of the second moments, with as little damping as works.
  absl::Status Factor(GptqResult* result) {
    factor_.resize(static_cast<size_t>(cols_ * cols_));
    const std::vector<float>& diagonal = diagonal_;
    const float largest = *std::max_element(diagonal.begin(), diagonal.end());
    for (int attempt = 0; attempt <= kFloorAttempts; ++attempt) {
      result->diagonal_floor = attempt == 0 ? 0 : 1e-6 * largest * std::pow(10.0, attempt - 1);
      std::vector<float> raised = diagonal;
      for (float& value : raised) value += static_cast<float>(result->diagonal_floor);
      const double mean = std::accumulate(raised.begin(), raised.end(), 0.0) / raised.size();
      double damp = spec_.damp_percent;
      while (true) {
        if (TryFactor(raised, static_cast<float>(damp * mean))) {
          result->damp_percent = damp;
          return absl::OkStatus();
        }
        RETURN_IF_ERROR(CheckStopped(inputs_.stopped));
        damp += spec_.damp_auto_increment;
        if (spec_.damp_auto_increment <= 0 || damp >= 1) break;
      }
      if (spec_.damp_auto_increment <= 0) break;  // AutoGPTQ gives up at once
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "the inputs' second moments cannot be inverted: use more calibration text, or a "
        "damp_percent above ",
        spec_.damp_percent));
  }

  bool TryFactor(const std::vector<float>& diagonal, float damping) {
    const auto fill = [&](int64_t i) {
      const float* moments = inputs_.gram.data() + order_[i] * cols_;
      float* row = factor_.data() + i * cols_;
      for (int64_t j = 0; j < cols_; ++j) row[j] = moments[order_[j]] * moment_scale_;
      row[i] = diagonal[i] + damping;
    };
    if (!ParallelForUnlessStopped(cols_, inputs_.stopped, fill).ok()) return false;
    return UpperFactorOfInverse(factor_.data(), cols_, inputs_.stopped) == cols_;
  }

  // Codes of columns [begin, end), and the negated errors [rows, end - begin] over the factor's
  // diagonal.
  void RoundBlock(int64_t begin, int64_t end, float* errors) {
    constexpr double kSeconds = 2e-5 * kRowsPerTask;  // of a task, about
    const auto round = [&](int64_t task) {
      const int64_t last = std::min(rows_, (task + 1) * kRowsPerTask);
      for (int64_t row = task * kRowsPerTask; row < last; ++row) {
        RoundRow(row, begin, end, errors + row * (end - begin));
      }
    };
    ParallelFor((rows_ + kRowsPerTask - 1) / kRowsPerTask, round, kSeconds);
  }

  void RoundRow(int64_t row, int64_t begin, int64_t end, float* errors) {
    const float most = Most();
    const int64_t width = end - begin;
    // Upstream updates a copy, and looks for grids in what the copy was made of.
    float line[kBlock];
    std::copy_n(weights_.data() + row * cols_ + begin, width, line);
    GptqGrid* grids = grids_.data() + row * groups_.count();
    for (int64_t i = 0; i < width; ++i) {
      const int64_t c = begin + i;
      const int64_t group = groups_.Of(c, order_);
      if (groups_.StartsAt(c)) {
        grids[group] =
            FindGrid(weights_.data() + row * cols_ + c, std::min(groups_.size(), cols_ - c));
      }
      const float* factor = factor_.data() + c * cols_ + begin;
      const float code = grids[group].CodeOf(line[i], most);
      const float error = (line[i] - grids[group].ValueOf(code)) / factor[i];
      codes_[row * cols_ + c] = static_cast<uint8_t>(code);
      errors[i] = -error;
      for (int64_t j = i; j < width; ++j) line[j] -= error * factor[j];
    }
  }

  QuantizedTensor Finish() {
    QuantizedTensor out;
    out.rows = rows_;
    out.cols = cols_;
    out.dequantized_dtype = out.scale_dtype = DType::kF16;
    out.grid = UniformGrid(spec_.bits, /*is_signed=*/false);
    out.block = {.rows = 1, .cols = groups_.size()};
    for (const GptqGrid& grid : grids_) {
      out.scale.push_back(RoundTo(DType::kF16, std::min(grid.scale, InFloat16::kMax)));
      out.zero_point.push_back(grid.zero);
    }
    const std::vector<int32_t> columns = groups_.OutputColumns(order_);
    out.codes.resize(codes_.size());
    ParallelFor(rows_, [&](int64_t row) {
      for (int64_t c = 0; c < cols_; ++c) {
        out.codes[row * cols_ + columns[c]] = codes_[row * cols_ + c];
      }
    });
    out.input.permutation = groups_.OutputPermutation(order_);
    return out;
  }

  const GptqSpec& spec_;
  const GptqInputs& inputs_;
  const int64_t rows_, cols_;
  const GptqGroups groups_;
  FloatBuffer weights_, factor_;
  std::vector<float> diagonal_;
  float moment_scale_ = 1;
  std::vector<uint8_t> codes_;
  std::vector<GptqGrid> grids_;  // [rows, groups]
  std::vector<int32_t> order_ = std::vector<int32_t>(static_cast<size_t>(cols_));
};

}  // namespace

absl::StatusOr<GptqResult> SolveGptq(const TensorView& weight, const GptqSpec& spec,
                                     const GptqInputs& inputs) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const int64_t cols = weight.shape[1];
  if (static_cast<int64_t>(inputs.gram.size()) != cols * cols || inputs.tokens <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("GPTQ needs the second moments of ", cols, " input channels"));
  }
  return GptqSolver(weight, spec, inputs).Solve();
}

absl::StatusOr<QuantizedTensor> RoundToGptqGrid(const TensorView& weight, const GptqSpec& spec) {
  RETURN_IF_ERROR(CheckWeight(weight));
  GptqSpec in_order = spec;
  in_order.desc_act = false;
  const GptqInputs none;
  return GptqSolver(weight, in_order, none).Round();
}

}  // namespace quantd
