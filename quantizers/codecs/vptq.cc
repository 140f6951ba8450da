#include "quantizers/codecs/vptq.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kOutliers[] = "vptq.outliers";
constexpr char kPermuted[] = "vptq.enable_perm";
constexpr char kIndices[] = "indices";
constexpr char kCentroids[] = "centroids.weight";
constexpr char kResidual[] = "res_centroids.weight";
constexpr char kOutlierIndices[] = "outlier_indices";
constexpr char kOutlierCentroids[] = "outlier_centroids.weight";
constexpr char kPerm[] = "perm";
constexpr char kScale[] = "weight_scale";
constexpr char kBias[] = "weight_bias";
constexpr const char* kAll[] = {kIndices,          kCentroids, kResidual, kOutlierIndices,
                                kOutlierCentroids, kPerm,      kScale,    kBias};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Grid VectorGrid(int bits, int residual_bits, int length) {
  Grid grid;
  grid.kind = Grid::Kind::kCodebook;
  grid.bits = bits;
  grid.residual_bits = residual_bits;
  grid.codebooks = residual_bits > 0 ? 2 : 1;
  grid.vector_rows = length;
  return grid;
}

int CodeBits(const Grid& grid) { return grid.bits + grid.residual_bits; }

// One row of words: the bits of every column, main code below residual code, least significant
// first. `set` takes (column, codebook, code); false when bits beyond the columns are set.
template <class Set>
bool UnpackRow(const uint32_t* words, int64_t cols, const Grid& grid, Set set) {
  uint64_t buffer = 0;
  int held = 0;
  int64_t next = 0;
  for (int64_t c = 0; c < cols; ++c) {
    for (int k = 0; k < grid.codebooks; ++k) {
      if (held < grid.bits_of(k)) {
        buffer |= uint64_t{words[next++]} << held;
        held += 32;
      }
      set(c, k, static_cast<uint16_t>(buffer & ((uint64_t{1} << grid.bits_of(k)) - 1)));
      buffer >>= grid.bits_of(k);
      held -= grid.bits_of(k);
    }
  }
  return buffer == 0;
}

template <class Get>
void PackRow(uint32_t* words, int64_t cols, const Grid& grid, Get get) {
  uint64_t buffer = 0;
  int held = 0;
  for (int64_t c = 0; c < cols; ++c) {
    for (int k = 0; k < grid.codebooks; ++k) {
      buffer |= uint64_t{get(c, k)} << held;
      held += grid.bits_of(k);
      if (held < 32) continue;
      *words++ = static_cast<uint32_t>(buffer);
      buffer >>= 32;
      held -= 32;
    }
  }
  if (held > 0) *words = static_cast<uint32_t>(buffer);
}

// The groups of columns of `t`, whose first run may be outliers: runs of their own, and the last
// one the matrix itself. Calls body(grid, codes, cols) for each.
template <class Tensor, class Body>
void ForEachGroup(Tensor& t, bool has_outliers, const Body& body) {
  for (size_t i = has_outliers ? 1 : 0; i < t.leading.size(); ++i) {
    body(t.leading[i].grid, t.leading[i].wide_codes, t.leading[i].cols);
  }
  const int64_t cols = t.cols - t.leading_columns();
  if (t.wide_codes.empty()) {
    body(t.grid, t.codes, cols);
  } else {
    body(t.grid, t.wide_codes, cols);
  }
}

absl::StatusOr<std::vector<float>> ReadTable(const ModuleTensors& tensors, absl::string_view name,
                                             DType dtype, int64_t groups, int64_t values) {
  return ReadFiniteFloats(tensors, name, {dtype}, Shape{groups, values});
}

absl::Status DecodeCentroids(const ModuleTensors& tensors, const VptqLayer& layer, DType dtype,
                             QuantizedTensor* out) {
  const int64_t count = layer.group_num;
  const int64_t main = int64_t{layer.num_centroids} * layer.vector_len;
  const int64_t rest =
      layer.has_residual() ? int64_t{layer.num_res_centroids} * layer.vector_len : 0;
  ASSIGN_OR_RETURN(const std::vector<float> centroids,
                   ReadTable(tensors, kCentroids, dtype, count, main));
  std::vector<float> residual;
  if (layer.has_residual()) {
    ASSIGN_OR_RETURN(residual, ReadTable(tensors, kResidual, dtype, count, rest));
  }
  int64_t g = 0;
  ForEachGroup(*out, layer.outlier_size > 0, [&](Grid& grid, auto&, int64_t) {
    grid.table.assign(centroids.begin() + g * main, centroids.begin() + (g + 1) * main);
    grid.table.insert(grid.table.end(), residual.begin() + g * rest,
                      residual.begin() + (g + 1) * rest);
    ++g;
  });
  return absl::OkStatus();
}

absl::Status DecodeIndices(const ModuleTensors& tensors, const VptqLayer& layer,
                           const Tensor& stored, QuantizedTensor* out) {
  const std::vector<uint32_t> words = Elements<uint32_t>(stored);
  const int64_t rows = stored.shape[1], width = stored.shape[2];
  int64_t line = 0, broken = -1;
  ForEachGroup(*out, layer.outlier_size > 0, [&](Grid& grid, auto& codes, int64_t cols) {
    using Code = typename std::remove_reference_t<decltype(codes)>::value_type;
    for (int64_t row = 0; row < rows; ++row, ++line) {
      Code* to = codes.data() + row * cols * grid.codebooks;
      const bool clean =
          UnpackRow(words.data() + line * width, cols, grid, [&](int64_t c, int k, uint16_t code) {
            to[c * grid.codebooks + k] = static_cast<Code>(code);
          });
      if (!clean && broken < 0) broken = line;
    }
  });
  if (broken < 0) return absl::OkStatus();
  return TensorError(tensors, kIndices,
                     absl::StrCat("bits that hold no code are set in the words of row ", broken));
}

absl::Status DecodeOutliers(const ModuleTensors& tensors, const VptqLayer& layer, DType dtype,
                            const Tensor& stored, ColumnRun* run) {
  ASSIGN_OR_RETURN(run->grid.table,
                   ReadTable(tensors, kOutlierCentroids, dtype, 1,
                             int64_t{layer.outlier_num_centroids} * layer.outlier_vector_len));
  run->wide_codes = Elements<uint16_t>(stored);
  for (size_t i = 0; i < run->wide_codes.size(); ++i) {
    if (run->wide_codes[i] < layer.outlier_num_centroids) continue;
    return TensorError(tensors, kOutlierIndices,
                       absl::StrCat("found ", run->wide_codes[i], " at element ", i,
                                    ", expected less than ", layer.outlier_num_centroids));
  }
  return absl::OkStatus();
}

// Empty where the layer has no outliers.
absl::StatusOr<Tensor> ReadOutlierIndices(const ModuleTensors& tensors, const VptqLayer& layer) {
  if (layer.outlier_size == 0) return Tensor();
  const int64_t rows = CeilDiv(layer.out_features, layer.outlier_vector_len);
  return ReadTensor(tensors, kOutlierIndices, {DType::kI16}, Shape{1, rows, layer.outlier_size});
}

absl::Status DecodePermutation(const ModuleTensors& tensors, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, kPerm, {DType::kI16}, Shape{out->cols}));
  const std::vector<uint16_t> order = Elements<uint16_t>(stored);
  std::vector<bool> seen(out->cols);
  for (size_t c = 0; c < order.size(); ++c) {
    if (order[c] >= out->cols || seen[order[c]]) {
      return TensorError(tensors, kPerm,
                         absl::StrCat("found ", order[c], " at element ", c,
                                      ", expected every column below ", out->cols, " once"));
    }
    seen[order[c]] = true;
  }
  // The identity is not worth a permutation of the inputs.
  if (std::is_sorted(order.begin(), order.end())) return absl::OkStatus();
  out->input.permutation.assign(order.begin(), order.end());
  return absl::OkStatus();
}

void PushTable(const QuantizedTensor& weight, bool has_outliers, int book, const char* name,
               std::vector<NamedTensor>* out) {
  std::vector<float> values;
  int64_t groups = 0;
  ForEachGroup(weight, has_outliers, [&](const Grid& grid, const auto&, int64_t) {
    const auto end_of_main = grid.table.begin() + (grid.vector_size() << grid.bits);
    values.insert(values.end(), book == 0 ? grid.table.begin() : end_of_main,
                  book == 0 ? end_of_main : grid.table.end());
    ++groups;
  });
  const int64_t width = static_cast<int64_t>(values.size()) / groups;
  out->push_back({name, FloatTensor(weight.scale_dtype, {groups, width}, values)});
}

Tensor EncodeIndices(const QuantizedTensor& weight, bool has_outliers) {
  const int64_t rows = CeilDiv(weight.rows, weight.grid.vector_rows);
  const int64_t cols = weight.cols - weight.leading_columns();
  const int64_t width = CeilDiv(cols * CodeBits(weight.grid), 32);
  std::vector<uint32_t> words;
  int64_t groups = 0;
  ForEachGroup(weight, has_outliers, [&](const Grid& grid, const auto& codes, int64_t) {
    words.resize(++groups * rows * width);
    for (int64_t row = 0; row < rows; ++row) {
      PackRow(words.data() + ((groups - 1) * rows + row) * width, cols, grid,
              [&](int64_t c, int k) { return codes[(row * cols + c) * grid.codebooks + k]; });
    }
  });
  return TensorOf<uint32_t>(DType::kI32, {groups, rows, width}, words);
}

Tensor EncodePermutation(const QuantizedTensor& weight) {
  std::vector<uint16_t> order(weight.cols);
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::copy(weight.input.permutation.begin(), weight.input.permutation.end(), order.begin());
  return TensorOf<uint16_t>(DType::kI16, {weight.cols}, order);
}

}  // namespace

QuantizedTensor EmptyVptq(const VptqLayer& layer, DType dtype) {
  QuantizedTensor out;
  out.rows = layer.out_features;
  out.cols = layer.in_features;
  out.block = {.rows = 0, .cols = 0};
  out.scale = {1.0f};
  out.scale_dtype = out.dequantized_dtype = dtype;
  out.rounds_each_step = true;
  if (layer.outlier_size > 0) {
    ColumnRun& run = out.leading.emplace_back();
    run.cols = layer.outlier_size;
    run.grid = VectorGrid(layer.outlier_bits(), 0, layer.outlier_vector_len);
    run.wide_codes.resize(run.grid.code_count(out.rows, run.cols));
  }
  const Grid grid = VectorGrid(layer.centroid_bits(), layer.residual_bits(), layer.vector_len);
  const int64_t codes = grid.code_count(out.rows, layer.group_size);
  for (int64_t g = 0; g + 1 < layer.group_num; ++g) {
    out.leading.push_back({layer.group_size, grid, std::vector<uint16_t>(codes)});
  }
  out.grid = grid;
  if (grid.bits > 8) {
    out.wide_codes.resize(codes);
  } else {
    out.codes.resize(codes);
  }
  out.attributes[kOutliers] = std::to_string(layer.outlier_size > 0 ? 1 : 0);
  out.attributes[kPermuted] = std::to_string(layer.enable_perm ? 1 : 0);
  return out;
}

bool VptqCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has(kIndices) || tensors.Has(kCentroids);
}

std::vector<std::string> VptqCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : kAll) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<const VptqLayer*> VptqCodec::LayerOf(const ModuleTensors& tensors) const {
  const VptqLayer* layer = config_.Find(tensors.module());
  if (layer != nullptr) return layer;
  return TensorError(tensors, kIndices,
                     "quantization_config.config_for_layers has no entry for the module, without "
                     "which its layout is not known");
}

absl::StatusOr<Shape> VptqCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const VptqLayer* layer, LayerOf(tensors));
  const Shape shape = {layer->out_features, layer->in_features};
  RETURN_IF_ERROR(CheckMatrixShape(tensors, kIndices, shape));
  return shape;
}

absl::StatusOr<QuantizedTensor> VptqCodec::Decode(const ModuleTensors& tensors) const {
  RETURN_IF_ERROR(MatrixShape(tensors).status());
  ASSIGN_OR_RETURN(const VptqLayer* layer, LayerOf(tensors));
  if (!tensors.Has(kCentroids)) return TensorError(tensors, kCentroids, "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView centroids, tensors.Describe(kCentroids));
  const DType dtype = centroids.dtype;
  if (dtype != DType::kF16 && dtype != DType::kBF16 && dtype != DType::kF32) {
    return TensorError(tensors, kCentroids, "expected F16, BF16 or F32");
  }
  // Before there is room for the codes: their tensors have to be as large as the config says.
  const Shape indices = {
      layer->group_num, CeilDiv(layer->out_features, layer->vector_len),
      CeilDiv(layer->group_size * (layer->centroid_bits() + layer->residual_bits()), 32)};
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, kIndices, {DType::kI32}, indices));
  ASSIGN_OR_RETURN(const Tensor outliers, ReadOutlierIndices(tensors, *layer));
  QuantizedTensor out = EmptyVptq(*layer, dtype);
  RETURN_IF_ERROR(DecodeCentroids(tensors, *layer, dtype, &out));
  RETURN_IF_ERROR(DecodeIndices(tensors, *layer, stored, &out));
  if (layer->outlier_size > 0) {
    RETURN_IF_ERROR(DecodeOutliers(tensors, *layer, dtype, outliers, &out.leading[0]));
  }
  if (layer->enable_perm) RETURN_IF_ERROR(DecodePermutation(tensors, &out));
  if (layer->enable_norm) {
    ASSIGN_OR_RETURN(out.column_scale, ReadFiniteFloats(tensors, kScale, {dtype}, Shape{out.cols}));
    ASSIGN_OR_RETURN(out.column_offset, ReadFiniteFloats(tensors, kBias, {dtype}, Shape{out.cols}));
  }
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> VptqCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string outliers, RequireAttribute(weight, kOutliers, quant_method()));
  const bool has_outliers = outliers == "1";
  const DType dtype = weight.scale_dtype;
  std::vector<NamedTensor> out;
  out.push_back({kIndices, EncodeIndices(weight, has_outliers)});
  PushTable(weight, has_outliers, 0, kCentroids, &out);
  if (weight.grid.codebooks > 1) PushTable(weight, has_outliers, 1, kResidual, &out);
  if (has_outliers) {
    const ColumnRun& run = weight.leading[0];
    const int64_t rows = CeilDiv(weight.rows, run.grid.vector_rows);
    out.push_back(
        {kOutlierIndices, TensorOf<uint16_t>(DType::kI16, {1, rows, run.cols}, run.wide_codes)});
    out.push_back(
        {kOutlierCentroids,
         FloatTensor(dtype, {1, static_cast<int64_t>(run.grid.table.size())}, run.grid.table)});
  }
  if (Attribute(weight, kPermuted) == "1") out.push_back({kPerm, EncodePermutation(weight)});
  if (!weight.column_scale.empty()) {
    out.push_back({kScale, FloatTensor(dtype, {weight.cols}, weight.column_scale)});
    out.push_back({kBias, FloatTensor(dtype, {weight.cols}, weight.column_offset)});
  }
  return out;
}

}  // namespace quantd
