#include "quantizers/solvers/vector_gptq.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/float_types.h"
#include "kernels/matrix_product.h"
#include "quantizers/solvers/hessian.h"
#include "quantizers/solvers/k_means.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {
namespace {

constexpr int64_t kBlock = 128;     // columns after which the error reaches all later ones
constexpr int64_t kBandRows = 512;  // rows that are worked on together, about

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Problem {
  std::span<const float> weight;
  int64_t rows = 0, cols = 0;
  VectorGptqSpec spec;
  StopRequest stopped;
  OrderedHessian hessian;
  std::vector<float> importance;  // the Hessian's diagonal, of the matrix's columns
  VectorGptqResult result;

  // `count` rows of column `c` in the solver's order, normalized; zeros when its input is dead.
  void Column(int64_t c, int64_t first_row, int64_t count, float* out) const {
    const int64_t column = hessian.order[c];
    const bool norm = !result.column_scale.empty();
    const float offset = norm ? result.column_offset[column] : 0.0f;
    const float scale = norm ? result.column_scale[column] : 1.0f;
    for (int64_t r = 0; r < count; ++r) {
      const float value = weight[(first_row + r) * cols + column];
      out[r] = hessian.dead[c] ? 0.0f : (value - offset) / scale;
    }
  }
};

// Shift and scale that bring every column to 0..1, as they will be stored.
absl::Status Normalize(Problem* p) {
  constexpr int64_t kStrip = 64;  // columns that are read together
  VectorGptqResult& result = p->result;
  result.column_offset.resize(p->cols);
  result.column_scale.resize(p->cols);
  return ParallelForUnlessStopped(CeilDiv(p->cols, kStrip), p->stopped, [&](int64_t strip) {
    const int64_t first = strip * kStrip, count = std::min(kStrip, p->cols - first);
    std::array<float, kStrip> low, high;
    std::copy_n(p->weight.begin() + first, count, low.begin());
    high = low;
    for (int64_t r = 1; r < p->rows; ++r) {
      const float* row = p->weight.data() + r * p->cols + first;
      for (int64_t c = 0; c < count; ++c) {
        low[c] = std::min(low[c], row[c]);
        high[c] = std::max(high[c], row[c]);
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      const float scale = RoundTo(p->spec.dtype, high[c] - low[c]);
      result.column_offset[first + c] = RoundTo(p->spec.dtype, low[c]);
      // A constant column, or one so even that its range is lost in the dtype.
      result.column_scale[first + c] = scale > 0 ? scale : 1.0f;
    }
  });
}

// The Hessian of the normalized columns: an error in them counts by their scale.
absl::StatusOr<std::vector<float>> ScaledHessian(const Problem& p, std::span<const float> gram) {
  std::vector<float> hessian(gram.begin(), gram.end());
  const std::vector<float>& scale = p.result.column_scale;
  if (scale.empty()) return hessian;
  RETURN_IF_ERROR(ParallelForUnlessStopped(p.cols, p.stopped, [&](int64_t row) {
    for (int64_t col = 0; col < p.cols; ++col) {
      hessian[row * p.cols + col] *= scale[row] * scale[col];
    }
  }));
  return hessian;
}

std::vector<VectorColumns> LayOut(const Problem& p) {
  std::vector<VectorColumns> columns;
  const VectorGptqSpec& spec = p.spec;
  const auto add = [&](int64_t first, int64_t cols, int length) {
    VectorColumns& run = columns.emplace_back();
    run.first = first;
    run.cols = cols;
    run.vector_len = length;
    run.codes.resize(CeilDiv(p.rows, length) * cols);
  };
  if (spec.outlier_size > 0) add(0, spec.outlier_size, spec.outlier_vector_len);
  const int64_t size = (p.cols - spec.outlier_size) / spec.group_num;
  for (int64_t g = 0; g < spec.group_num; ++g) {
    add(spec.outlier_size + g * size, size, spec.vector_len);
  }
  return columns;
}

// The centroids of a run of columns, by k-means on its vectors weighted by the Hessian's diagonal.
absl::Status FindCentroids(const Problem& p, int64_t centroids, int64_t residual_centroids,
                           uint64_t seed, VectorColumns* run) {
  const int64_t length = run->vector_len, per_column = CeilDiv(p.rows, length);
  std::vector<float> vectors(run->cols * per_column * length), weights(run->cols * per_column);
  RETURN_IF_ERROR(ParallelForUnlessStopped(run->cols, p.stopped, [&](int64_t c) {
    p.Column(run->first + c, 0, p.rows, vectors.data() + c * per_column * length);
    std::fill_n(weights.begin() + c * per_column, per_column,
                p.importance[p.hessian.order[run->first + c]]);
  }));
  const auto find = [&](int64_t count, uint64_t run_seed) {
    return KMeans(vectors, run->vector_len, weights,
                  {.centroids = count,
                   .iterations = p.spec.kiter,
                   .tolerance = p.spec.ktol,
                   .seed = run_seed},
                  p.stopped);
  };
  const auto round = [&](std::vector<float>& values) {
    for (float& value : values) value = RoundTo(p.spec.dtype, value);
  };
  ASSIGN_OR_RETURN(KMeansResult main, find(centroids, seed));
  round(main.centroids);
  run->centroids = std::move(main.centroids);
  if (residual_centroids == 0) return absl::OkStatus();
  run->residual_codes.resize(run->codes.size());
  ParallelFor(static_cast<int64_t>(main.codes.size()), [&](int64_t i) {
    const float* centroid = run->centroids.data() + main.codes[i] * length;
    for (int64_t j = 0; j < length; ++j) vectors[i * length + j] -= centroid[j];
  });
  ASSIGN_OR_RETURN(KMeansResult residual, find(residual_centroids, ~seed));
  round(residual.centroids);
  run->residual = std::move(residual.centroids);
  return absl::OkStatus();
}

// A run's codebooks, ready for the search.
struct Books {
  SearchableCodebook main;
  SearchableCodebook residual;  // empty vectors when there is none
  bool has_residual;

  explicit Books(const VectorColumns& run)
      : main(run.centroids, run.vector_len),
        residual(run.residual, run.vector_len),
        has_residual(!run.residual.empty()) {}
};

// Some rows through all columns.
class Band {
 public:
  Band(const Problem& p, const std::vector<Books>& books, int64_t first_row, int64_t rows,
       std::vector<VectorColumns>* columns)
      : p_(p),
        books_(books),
        first_row_(first_row),
        rows_(rows),
        columns_(*columns),
        weight_(p.cols * rows),
        errors_(kBlock * rows) {
    const int64_t inside = std::min(rows, p.rows - first_row);
    for (int64_t c = 0; c < p.cols; ++c) {
      p.Column(c, first_row, inside, weight_.data() + c * rows);
    }
  }

  // The columns [begin, end), which lie in one block; call for one after another.
  void Quantize(int64_t begin, int64_t end) {
    const int64_t first = begin / kBlock * kBlock, last = std::min(first + kBlock, p_.cols);
    for (int64_t c = begin; c < end; ++c) {
      if (c == columns_[run_].first + columns_[run_].cols) ++run_;
      QuantizeColumn(c, errors_.data() + (c - first) * rows_, last);
    }
    if (end < last || end == p_.cols) return;
    AddMatrixProduct(p_.cols - end, rows_, end - first,
                     {p_.hessian.factor.data() + first * p_.cols + end, 1, p_.cols},
                     {errors_.data(), rows_}, weight_.data() + end * rows_, rows_);
  }

 private:
  // Leaves minus the error over the factor's diagonal in `error` [rows], and spreads it over the
  // later columns below `end`.
  void QuantizeColumn(int64_t c, float* error, int64_t end) {
    VectorColumns& run = columns_[run_];
    float* column = weight_.data() + c * rows_;
    std::copy_n(column, rows_, error);
    Subtract(books_[run_].main, run.centroids, run, c, error, &run.codes);
    if (books_[run_].has_residual) {
      Subtract(books_[run_].residual, run.residual, run, c, error, &run.residual_codes);
    }
    const float* factor = p_.hessian.factor.data() + c * p_.cols;
    for (int64_t r = 0; r < rows_; ++r) error[r] = -error[r] / factor[c];
    for (int64_t k = c + 1; k < end; ++k) {
      float* later = weight_.data() + k * rows_;
      for (int64_t r = 0; r < rows_; ++r) later[r] += error[r] * factor[k];
    }
  }

  // Takes the nearest entries off `left` [rows] and notes their codes.
  void Subtract(const SearchableCodebook& book, const std::vector<float>& vectors,
                const VectorColumns& run, int64_t c, float* left, std::vector<int32_t>* codes) {
    const int64_t length = run.vector_len, count = rows_ / length;
    found_.resize(count);
    book.Nearest(left, count, found_.data());
    const int64_t total = CeilDiv(p_.rows, length);
    for (int64_t v = 0; v < count; ++v) {
      const int64_t row = first_row_ / length + v;
      if (row < total) (*codes)[row * run.cols + c - run.first] = found_[v];
      for (int64_t j = 0; j < length; ++j) left[v * length + j] -= vectors[found_[v] * length + j];
    }
  }

  const Problem& p_;
  const std::vector<Books>& books_;
  int64_t first_row_, rows_;
  std::vector<VectorColumns>& columns_;  // other bands write other rows of the codes
  std::vector<float> weight_;            // [cols, rows], changed as it goes
  std::vector<float> errors_;            // [block, rows]
  std::vector<int32_t> found_;
  size_t run_ = 0;  // of the next column
};

absl::Status QuantizeColumns(Problem* p) {
  std::vector<VectorColumns>& columns = p->result.columns;
  std::vector<Books> books;
  int64_t step = 1, entries = 0;
  for (const VectorColumns& run : columns) {
    books.emplace_back(run);
    step = std::lcm(step, int64_t{run.vector_len});
    entries = std::max<int64_t>(entries, (run.centroids.size() + run.residual.size()) /
                                             static_cast<size_t>(run.vector_len));
  }
  const int64_t rows = step * CeilDiv(kBandRows, step);
  std::vector<Band> bands;
  for (int64_t row = 0; row < p->rows; row += rows) {
    RETURN_IF_ERROR(CheckStopped(p->stopped));
    bands.emplace_back(*p, books, row, rows, &columns);
  }
  // Steps of some milliseconds, so that inference gets in between.
  const double column = static_cast<double>(rows) * static_cast<double>(entries + p->cols);
  const auto step_columns = static_cast<int64_t>(std::clamp(3e7 / column, 1.0, double{kBlock}));
  for (int64_t begin = 0; begin < p->cols;) {
    const int64_t block_end = std::min(begin / kBlock * kBlock + kBlock, p->cols);
    const int64_t end = std::min(begin + step_columns, block_end);
    RETURN_IF_ERROR(ParallelPieces(static_cast<int64_t>(bands.size()),
                                   column * static_cast<double>(end - begin), p->stopped,
                                   [&](int64_t band) { bands[band].Quantize(begin, end); }));
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VectorGptqResult> SolveVectorGptq(std::span<const float> weight, int64_t rows,
                                                 int64_t cols, std::span<const float> gram,
                                                 const VectorGptqSpec& spec,
                                                 const StopRequest& stopped) {
  Problem p{weight, rows, cols, spec, stopped, {}, std::vector<float>(cols), {}};
  if (spec.enable_norm) RETURN_IF_ERROR(Normalize(&p));
  {
    ASSIGN_OR_RETURN(const std::vector<float> hessian, ScaledHessian(p, gram));
    for (int64_t c = 0; c < cols; ++c) p.importance[c] = hessian[c * (cols + 1)];
    ASSIGN_OR_RETURN(p.hessian,
                     OrderHessian(hessian, cols, spec.enable_perm, spec.percdamp, stopped));
  }
  p.result.order = p.hessian.order;
  p.result.columns = LayOut(p);
  SeededRandom seeds(spec.seed);
  for (VectorColumns& run : p.result.columns) {
    const bool outliers = spec.outlier_size > 0 && run.first == 0;
    RETURN_IF_ERROR(FindCentroids(p, outliers ? spec.outlier_centroids : spec.centroids,
                                  outliers ? 0 : spec.residual_centroids, seeds.Next(), &run));
  }
  RETURN_IF_ERROR(QuantizeColumns(&p));
  return std::move(p.result);
}

}  // namespace quantd
