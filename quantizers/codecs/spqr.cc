#include "quantizers/codecs/spqr.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/tiled_scales.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr int kTile = 16;
constexpr char kSparse[] = "spqr.sparse";
constexpr char kPermutation[] = "spqr.in_perm";
constexpr char kDense[] = "dense_weights";
constexpr char kRows[] = "row_offsets";
constexpr char kOutliers[] = "col_vals";
constexpr char kOrder[] = "in_perm";

// Elements of a vector. INVALID_ARGUMENT unless it is one and as long as the config says.
absl::StatusOr<int64_t> LengthOf(const ModuleTensors& tensors, absl::string_view name,
                                 const SpqrConfig& config) {
  if (!tensors.Has(name)) return TensorError(tensors, name, "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(name));
  if (view.shape.size() != 1) {
    return TensorError(tensors, name,
                       absl::StrCat("found the shape ", ToString(view.shape),
                                    ", expected one "
                                    "dimension"));
  }
  const auto told = config.shapes.find(absl::StrCat(tensors.module(), ".", name, ".shape"));
  if (told == config.shapes.end() || told->second == view.shape[0]) return view.shape[0];
  return TensorError(tensors, name,
                     absl::StrCat("found ", view.shape[0],
                                  " elements, but quantization_config.shapes says ", told->second));
}

bool IsTiled(int64_t rows, int64_t cols) {
  return rows > 0 && cols > 0 && rows % kTile == 0 && cols % kTile == 0;
}

// The second-order numbers of a tile: scale and zero of its scale codes, then of its zero points.
struct Second {
  uint16_t scale, zero_scale, scale_zero, zero_zero;  // in the order of the file
};

Second SecondOf(const std::array<uint64_t, kTile>& words) {
  uint64_t bits = 0;
  for (int f = 0; f < 8; ++f) bits |= ((words[2 * f] >> 54) & 0xff) << (8 * f);
  const auto part = [bits](int i) { return static_cast<uint16_t>(bits >> (16 * i)); };
  return {part(0), part(1), part(2), part(3)};
}

uint64_t BitsOf(const Second& second) {
  return uint64_t{second.scale} | uint64_t{second.zero_scale} << 16 |
         uint64_t{second.scale_zero} << 32 | uint64_t{second.zero_zero} << 48;
}

absl::Status CheckTile(const ModuleTensors& tensors, int64_t tile,
                       const std::array<uint64_t, kTile>& words) {
  for (int k = 0; k < kTile; ++k) {
    const bool same = (words[k] >> 54 & 0xff) == (words[k & ~1] >> 54 & 0xff);
    if (same && words[k] >> 62 == 0) continue;
    return TensorError(tensors, kDense,
                       absl::StrCat("word ", tile * kTile + k,
                                    same ? " has one of the bits 62 and 63 set"
                                         : " repeats another byte than the word before it"));
  }
  return absl::OkStatus();
}

void DecodeTile(const std::array<uint64_t, kTile>& words, int64_t tile_row, int64_t tile_col,
                QuantizedTensor* out) {
  NestedScales& nested = *out->nested;
  const int64_t width = out->cols / kTile;
  const int64_t tile = tile_row * width + tile_col;
  const Second second = SecondOf(words);
  nested.super_scale[tile] = FloatFromF16(second.scale);
  nested.super_offset[tile] = FloatFromF16(second.zero_scale);
  nested.scale_zero[tile] = FloatFromF16(second.scale_zero);
  nested.offset_zero[tile] = FloatFromF16(second.zero_zero);
  for (int k = 0; k < kTile; ++k) {
    const int64_t row = tile_row * kTile + k;
    nested.scale_codes[row * width + tile_col] = words[k] & 7;
    nested.offset_codes[row * width + tile_col] = words[k] >> 3 & 7;
    uint8_t* codes = out->codes.data() + row * out->cols + tile_col * kTile;
    for (int t = 0; t < kTile; ++t) codes[t] = words[k] >> (6 + 3 * t) & 7;
  }
}

absl::Status DecodeDense(const ModuleTensors& tensors, QuantizedTensor* out) {
  const int64_t rows = out->rows / kTile, cols = out->cols / kTile;
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, kDense, {DType::kI64}, Shape{rows * cols * kTile}));
  const std::vector<uint64_t> words = Elements<uint64_t>(stored);
  NestedScales& nested = out->nested.emplace();
  nested.super_rows = kTile;
  for (auto* codes : {&nested.scale_codes, &nested.offset_codes}) {
    codes->resize(out->rows * cols);
  }
  for (auto* values :
       {&nested.super_scale, &nested.super_offset, &nested.scale_zero, &nested.offset_zero}) {
    values->resize(rows * cols);
  }
  out->codes.resize(out->rows * out->cols);
  for (int64_t tile = 0; tile < rows * cols; ++tile) {
    std::array<uint64_t, kTile> part;
    std::copy_n(words.begin() + tile * kTile, kTile, part.begin());
    RETURN_IF_ERROR(CheckTile(tensors, tile, part));
    DecodeTile(part, tile / cols, tile % cols, out);
  }
  FillTiledScales(out);
  for (size_t i = 0; i < out->scale.size(); ++i) {
    if (std::isfinite(out->scale[i]) && std::isfinite(out->zero_point[i])) continue;
    return TensorError(tensors, kDense,
                       absl::StrCat("scale or zero point ", i, " is not a finite number"));
  }
  return absl::OkStatus();
}

absl::Status DecodePermutation(const ModuleTensors& tensors, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(kOrder));
  const bool stored = view.shape != Shape{0};
  out->attributes[kPermutation] = stored ? "stored" : "empty";
  if (!stored) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensor pairs,
                   ReadTensor(tensors, kOrder, {DType::kI32}, Shape{out->cols / 2}));
  const std::vector<uint16_t> order = Elements<uint16_t>(pairs);
  std::vector<bool> seen(out->cols);
  for (size_t c = 0; c < order.size(); ++c) {
    if (order[c] >= out->cols || seen[order[c]]) {
      return TensorError(tensors, kOrder,
                         absl::StrCat("found ", order[c], " at element ", c,
                                      ", expected every "
                                      "column below ",
                                      out->cols, " once"));
    }
    seen[order[c]] = true;
  }
  // The identity is not worth a permutation of the inputs.
  if (std::is_sorted(order.begin(), order.end())) return absl::OkStatus();
  out->input.permutation.assign(order.begin(), order.end());
  return absl::OkStatus();
}

// Offsets that begin at 0, never fall and end at `count`.
absl::Status CheckOffsets(const ModuleTensors& tensors, const std::vector<int32_t>& offsets,
                          int64_t count, int multiple) {
  const auto wrong = [&](size_t i, absl::string_view expected) {
    return TensorError(
        tensors, kRows,
        absl::StrCat("found ", offsets[i], " at element ", i, ", expected ", expected));
  };
  if (offsets.front() != 0) return wrong(0, "0");
  for (size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) return wrong(i, "no less than the one before it");
    if (offsets[i] % multiple != 0) return wrong(i, "a multiple of 16");
  }
  if (offsets.back() == count) return absl::OkStatus();
  return wrong(offsets.size() - 1, absl::StrCat("the ", count, " elements of ", kOutliers));
}

absl::Status DecodeOutliers(const ModuleTensors& tensors, SpqrSparse sparse, QuantizedTensor* out) {
  const bool bands = sparse == SpqrSparse::kPtcsr;
  ASSIGN_OR_RETURN(const Tensor rows,
                   ReadTensor(tensors, kRows, {DType::kI32},
                              Shape{(bands ? out->rows / kTile : out->rows) + 1}));
  const std::vector<int32_t> offsets = Elements<int32_t>(rows);
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, kOutliers, {DType::kI32}, std::nullopt));
  const std::vector<uint32_t> entries = Elements<uint32_t>(stored);
  RETURN_IF_ERROR(
      CheckOffsets(tensors, offsets, static_cast<int64_t>(entries.size()), bands ? kTile : 1));
  Outliers& outliers = out->outliers;
  outliers.row_begin = {0};
  for (int64_t row = 0; row < out->rows; ++row) {
    const int64_t line = bands ? row / kTile : row;
    const int64_t step = bands ? kTile : 1;
    for (int64_t i = offsets[line] + (bands ? row % kTile : 0); i < offsets[line + 1]; i += step) {
      const auto column = static_cast<int64_t>(entries[i] & 0xffff);
      const float value = FloatFromF16(static_cast<uint16_t>(entries[i] >> 16));
      if (column >= out->cols || !std::isfinite(value)) {
        return TensorError(
            tensors, kOutliers,
            absl::StrCat("element ", i, " says column ", column, ", value ", value,
                         "; expected a column below ", out->cols, " and a finite number"));
      }
      const std::vector<int32_t>& order = out->input.permutation;
      outliers.column.push_back(order.empty() ? static_cast<int32_t>(column) : order[column]);
      outliers.value.push_back(value);
    }
    outliers.row_begin.push_back(static_cast<int64_t>(outliers.column.size()));
  }
  return absl::OkStatus();
}

Tensor EncodeDense(const QuantizedTensor& weight) {
  const int64_t rows = weight.rows / kTile, cols = weight.cols / kTile;
  const NestedScales& nested = *weight.nested;
  std::vector<uint64_t> words(rows * cols * kTile);
  for (int64_t tile = 0; tile < rows * cols; ++tile) {
    const uint64_t second =
        BitsOf({F16FromFloat(nested.super_scale[tile]), F16FromFloat(nested.super_offset[tile]),
                F16FromFloat(nested.scale_zero[tile]), F16FromFloat(nested.offset_zero[tile])});
    for (int k = 0; k < kTile; ++k) {
      const int64_t row = tile / cols * kTile + k, block = row * cols + tile % cols;
      uint64_t& word = words[tile * kTile + k];
      word = nested.scale_codes[block] | uint64_t{nested.offset_codes[block]} << 3;
      const uint8_t* codes = weight.codes.data() + row * weight.cols + tile % cols * kTile;
      for (int t = 0; t < kTile; ++t) word |= uint64_t{codes[t]} << (6 + 3 * t);
      word |= (second >> (k / 2 * 8) & 0xff) << 54;
    }
  }
  return TensorOf<uint64_t>(DType::kI64, {rows * cols * kTile}, words);
}

// Where each input stands among the columns of the codes.
std::vector<int32_t> Inverse(const std::vector<int32_t>& order, int64_t cols) {
  std::vector<int32_t> inverse(cols);
  std::iota(inverse.begin(), inverse.end(), 0);
  for (size_t c = 0; c < order.size(); ++c) inverse[order[c]] = static_cast<int32_t>(c);
  return inverse;
}

void EncodeOutliers(const QuantizedTensor& weight, SpqrSparse sparse,
                    std::vector<NamedTensor>* out) {
  const bool bands = sparse == SpqrSparse::kPtcsr;
  const Outliers& outliers = weight.outliers;
  const std::vector<int32_t> inverse = Inverse(weight.input.permutation, weight.cols);
  std::vector<int32_t> offsets = {0};
  std::vector<uint32_t> entries(outliers.column.size());
  for (int64_t row = 0; row < weight.rows; ++row) {
    const int64_t begin = outliers.row_begin[row], end = outliers.row_begin[row + 1];
    const int64_t band = outliers.row_begin[row / kTile * kTile];
    for (int64_t i = begin; i < end; ++i) {
      const auto column = static_cast<uint32_t>(inverse[outliers.column[i]]);
      entries[bands ? band + (i - begin) * kTile + row % kTile : i] =
          column | static_cast<uint32_t>(F16FromFloat(outliers.value[i])) << 16;
    }
    if (!bands || row % kTile == kTile - 1) offsets.push_back(static_cast<int32_t>(end));
  }
  const auto rows = static_cast<int64_t>(offsets.size()),
             count = static_cast<int64_t>(entries.size());
  out->push_back({kRows, TensorOf<int32_t>(DType::kI32, {rows}, offsets)});
  out->push_back({kOutliers, TensorOf<uint32_t>(DType::kI32, {count}, entries)});
}

Tensor EncodePermutation(const QuantizedTensor& weight) {
  if (Attribute(weight, kPermutation) == "empty") return MakeTensor(DType::kI32, {0});
  std::vector<uint16_t> order(weight.cols);
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::copy(weight.input.permutation.begin(), weight.input.permutation.end(), order.begin());
  return TensorOf<uint16_t>(DType::kI32, {weight.cols / 2}, order);
}

absl::Status CheckIsSpqr(const QuantizedTensor& weight) {
  const int64_t tiles = weight.rows / kTile * (weight.cols / kTile);
  const bool fits = IsTiled(weight.rows, weight.cols) && weight.grid.kind == Grid::Kind::kUniform &&
                    weight.grid.bits == 3 && weight.nested &&
                    static_cast<int64_t>(weight.nested->scale_codes.size()) == tiles * kTile &&
                    static_cast<int64_t>(weight.nested->offset_codes.size()) == tiles * kTile &&
                    static_cast<int64_t>(weight.nested->super_scale.size()) == tiles &&
                    static_cast<int64_t>(weight.nested->offset_zero.size()) == tiles;
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError("the matrix is not made of SpQR's 3-bit tiles of 16 by 16");
}

}  // namespace

void MarkSpqr(SpqrSparse sparse, QuantizedTensor* weight) {
  weight->attributes[kSparse] = sparse == SpqrSparse::kPtcsr ? "ptcsr" : "csr";
  weight->attributes[kPermutation] = "stored";
  if (sparse == SpqrSparse::kCsr) return;
  const std::vector<int32_t>& order = weight->input.permutation;
  Outliers padded{.row_begin = {0}};
  const Outliers& plain = weight->outliers;
  for (int64_t band = 0; band < weight->rows; band += kTile) {
    int64_t longest = 0;
    for (int64_t row = band; row < band + kTile; ++row) {
      longest = std::max(longest, plain.row_begin[row + 1] - plain.row_begin[row]);
    }
    for (int64_t row = band; row < band + kTile; ++row) {
      for (int64_t i = 0; i < longest; ++i) {
        const int64_t from = plain.row_begin[row] + i;
        const bool real = from < plain.row_begin[row + 1];
        padded.column.push_back(real ? plain.column[from] : order.empty() ? 0 : order[0]);
        padded.value.push_back(real ? plain.value[from] : 0.0f);
      }
      padded.row_begin.push_back(static_cast<int64_t>(padded.column.size()));
    }
  }
  weight->outliers = std::move(padded);
}

bool SpqrCodec::IsQuantized(const ModuleTensors& tensors) const { return tensors.Has(kDense); }

std::vector<std::string> SpqrCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {kDense, kRows, kOutliers, kOrder}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> SpqrCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const int64_t words, LengthOf(tensors, kDense, config_));
  ASSIGN_OR_RETURN(const int64_t offsets, LengthOf(tensors, kRows, config_));
  ASSIGN_OR_RETURN(const int64_t pairs, LengthOf(tensors, kOrder, config_));
  RETURN_IF_ERROR(LengthOf(tensors, kOutliers, config_).status());
  // Rows by either kind of index; the permutation, where there is one, tells the columns.
  for (const int64_t rows : {offsets - 1, (offsets - 1) * kTile}) {
    if (words <= 0 || words > (int64_t{1} << 36) || rows <= 0 || words * kTile % rows != 0)
      continue;
    const int64_t cols = words * kTile / rows;
    if (IsTiled(rows, cols) && (pairs == 0 || pairs * 2 == cols)) return Shape{rows, cols};
  }
  return TensorError(tensors, kDense,
                     absl::StrCat("found ", words, " words, ", offsets,
                                  " row offsets and a "
                                  "permutation of ",
                                  pairs,
                                  " pairs, which fit no matrix of "
                                  "16 by 16 tiles"));
}

absl::StatusOr<QuantizedTensor> SpqrCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  ASSIGN_OR_RETURN(const TensorView offsets, tensors.Describe(kRows));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = UniformGrid(3, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = kTile};
  out.scale_dtype = out.dequantized_dtype = DType::kF16;
  out.rounds_each_step = true;
  const SpqrSparse sparse =
      offsets.shape[0] == out.rows + 1 ? SpqrSparse::kCsr : SpqrSparse::kPtcsr;
  RETURN_IF_ERROR(DecodeDense(tensors, &out));
  RETURN_IF_ERROR(DecodePermutation(tensors, &out));
  RETURN_IF_ERROR(DecodeOutliers(tensors, sparse, &out));
  out.attributes[kSparse] = sparse == SpqrSparse::kPtcsr ? "ptcsr" : "csr";
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> SpqrCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string sparse, RequireAttribute(weight, kSparse, quant_method()));
  RETURN_IF_ERROR(CheckIsSpqr(weight));
  std::vector<NamedTensor> out;
  out.push_back({kDense, EncodeDense(weight)});
  EncodeOutliers(weight, sparse == "ptcsr" ? SpqrSparse::kPtcsr : SpqrSparse::kCsr, &out);
  out.push_back({kOrder, EncodePermutation(weight)});
  return out;
}

absl::StatusOr<std::string> SpqrCodec::ConfigOfStored(
    const std::string& quantization_config, const std::map<std::string, Shape>& stored) const {
  ASSIGN_OR_RETURN(SpqrConfig config, ParseSpqrConfig(quantization_config));
  config.shapes = SpqrShapes(stored);
  return WriteSpqrConfig(config);
}

}  // namespace quantd
