#include "quantizers/codecs/fouroversix.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

constexpr char kValues[] = "quantized_weight_values";
constexpr char kScales[] = "quantized_weight_scale_factors";
constexpr char kAbsMax[] = "quantized_weight_amax";
constexpr char kMetadata[] = "quantized_weight_metadata";
constexpr char kType[] = "fouroversix.dtype";

constexpr int64_t kTileRows = 128;
constexpr int64_t kTileBlocks = 4;

int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// What fills the rest of a tile: zeros, which MXFP4 divides by a scale of zero.
uint8_t PaddingCode(bool is_mx) { return is_mx ? 11 : 0; }

struct Tiles {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t blocks = 0;  // in a row

  Tiles(int64_t matrix_rows, int64_t matrix_cols, int64_t block)
      : rows(RoundUp(matrix_rows, kTileRows)),
        cols(RoundUp(matrix_cols, kTileBlocks * block)),
        blocks(cols / block) {}
  // Place of a scale: 128 rows and 4 blocks lie together, as 32 rows of 4 x 4.
  int64_t Place(int64_t row, int64_t block) const {
    const int64_t tile = row / kTileRows * (blocks / kTileBlocks) + block / kTileBlocks;
    const int64_t inside = row % kTileRows;
    return tile * kTileRows * kTileBlocks + inside % 32 * 16 + inside / 32 * kTileBlocks +
           block % kTileBlocks;
  }
};

absl::StatusOr<std::vector<int64_t>> ReadMetadata(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor tensor,
                   ReadTensor(tensors, kMetadata, {DType::kI64, DType::kI32}, Shape{6}));
  if (tensor.dtype == DType::kI64) return Elements<int64_t>(tensor);
  const std::vector<int32_t> narrow = Elements<int32_t>(tensor);
  return std::vector<int64_t>(narrow.begin(), narrow.end());
}

}  // namespace

void MarkFourOverSix(const FourOverSixConfig& config, DType dtype, float absmax,
                     QuantizedTensor* weight) {
  const Tiles tiles(weight->rows, weight->cols, weight->block.cols);
  const std::vector<int64_t> metadata = {weight->rows, weight->cols, tiles.rows, tiles.cols, 1, 1};
  weight->attributes[kType] = config.dtype;
  KeepTensor(kMetadata, TensorOf<int64_t>(DType::kI64, {6}, metadata), &weight->attributes);
  const bool is_mx = config.dtype == "mxfp4";
  KeepTensor(kAbsMax,
             FloatTensor(is_mx ? dtype : DType::kF32, is_mx ? Shape{1} : Shape{}, {absmax}),
             &weight->attributes);
}

bool FourOverSixCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has(kValues) || tensors.Has(kScales);
}

std::vector<std::string> FourOverSixCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {kValues, kScales, kAbsMax, kMetadata}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> FourOverSixCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const std::vector<int64_t> metadata, ReadMetadata(tensors));
  const Shape shape = {metadata[0], metadata[1]};
  ASSIGN_OR_RETURN(const Shape stored, ReadMatrixShape(tensors, kValues));
  if (std::min(shape[0], shape[1]) < 1 || shape[0] > stored[0] || shape[1] > 2 * stored[1]) {
    return TensorError(tensors, kMetadata,
                       absl::StrCat("found the shape ", ToString(shape), ", but ", kValues,
                                    " holds ", ToString(Shape{stored[0], 2 * stored[1]})));
  }
  const Tiles tiles(shape[0], shape[1], config_.spec().block());
  if (metadata[2] != tiles.rows || metadata[3] != tiles.cols || metadata[4] != 1 ||
      metadata[5] != 1) {
    return TensorError(tensors, kMetadata,
                       absl::StrCat("expected ", ToString(shape), " padded to ",
                                    ToString(Shape{tiles.rows, tiles.cols}),
                                    ", packed values and scales in Blackwell's order"));
  }
  return shape;
}

absl::Status FourOverSixCodec::DecodeScales(const ModuleTensors& tensors,
                                            QuantizedTensor* out) const {
  const Tiles tiles(out->rows, out->cols, out->block.cols);
  const bool is_mx = config_.spec().is_mx;
  out->scale_dtype = is_mx ? DType::kF8E8M0 : DType::kF8E4M3;
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, kScales, {out->scale_dtype},
                                                   Shape{tiles.rows * tiles.blocks}));
  const std::vector<uint8_t> bytes = Elements<uint8_t>(stored);
  const int64_t blocks = out->block_columns();
  for (int64_t row = 0; row < out->rows; ++row) {
    for (int64_t block = 0; block < blocks; ++block) {
      const uint8_t byte = bytes[tiles.Place(row, block)];
      const float scale = is_mx ? FloatFromE8M0(byte) : FloatFromE4M3(byte);
      if (!std::isfinite(scale)) {
        return TensorError(tensors, kScales,
                           absl::StrCat("the scale of row ", row, ", block ", block, " is NaN"));
      }
      out->scale.push_back(scale);
    }
  }
  ASSIGN_OR_RETURN(const Tensor absmax,
                   ReadTensor(tensors, kAbsMax, {DType::kF32, DType::kBF16, DType::kF16}, {}));
  if (NumElements(absmax.shape) != 1 || !std::isfinite(LoadFloat(absmax, 0))) {
    return TensorError(tensors, kAbsMax, "expected one finite number");
  }
  KeepTensor(kAbsMax, absmax, &out->attributes);
  if (!is_mx) out->post_scale = LoadFloat(absmax, 0) / config_.spec().full_scale();
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> FourOverSixCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = E2M1Grid();
  out.block = {.rows = 1, .cols = config_.spec().block()};
  out.dequantized_dtype = config_.spec().is_mx ? DType::kF16 : DType::kBF16;
  const Tiles tiles(out.rows, out.cols, out.block.cols);
  ASSIGN_OR_RETURN(const Tensor values,
                   ReadTensor(tensors, kValues, {DType::kU8}, Shape{tiles.rows, tiles.cols / 2}));
  const std::vector<uint8_t> codes =
      UnpackNibbles(values.bytes, tiles.rows * tiles.cols, NibbleOrder::kLowFirst);
  for (int64_t row = 0; row < out.rows; ++row) {
    const auto line = codes.begin() + row * tiles.cols;
    out.codes.insert(out.codes.end(), line, line + out.cols);
  }
  RETURN_IF_ERROR(DecodeScales(tensors, &out));
  ASSIGN_OR_RETURN(const Tensor metadata, tensors.Read(kMetadata));
  KeepTensor(kMetadata, metadata, &out.attributes);
  out.attributes[kType] = config_.dtype;
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> FourOverSixCodec::Encode(
    const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string type, RequireAttribute(weight, kType, "fouroversix"));
  if (type != config_.dtype || weight.block.cols != config_.spec().block()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", type, " cannot be written as ", config_.dtype));
  }
  const bool is_mx = config_.spec().is_mx;
  const Tiles tiles(weight.rows, weight.cols, weight.block.cols);
  std::vector<uint8_t> codes(static_cast<size_t>(tiles.rows * tiles.cols), PaddingCode(is_mx));
  std::vector<uint8_t> scales(static_cast<size_t>(tiles.rows * tiles.blocks), 0);
  const int64_t blocks = weight.block_columns();
  for (int64_t row = 0; row < weight.rows; ++row) {
    std::copy_n(weight.codes.begin() + row * weight.cols, weight.cols,
                codes.begin() + row * tiles.cols);
    for (int64_t block = 0; block < blocks; ++block) {
      const float scale = weight.scale[row * blocks + block];
      const int exponent = scale > 0 ? 127 + std::ilogb(scale) : 0;
      scales[tiles.Place(row, block)] =
          is_mx ? static_cast<uint8_t>(exponent) : E4M3FromFloat(scale);
      // Columns that the matrix lacks are zeros of its last block.
      const int64_t end = (block + 1) * weight.block.cols;
      const bool is_nan = is_mx && exponent == 0;
      for (int64_t c = weight.cols; c < end && !is_nan; ++c) codes[row * tiles.cols + c] = 0;
    }
  }
  std::vector<NamedTensor> out;
  out.push_back({kValues, Tensor{DType::kU8,
                                 {tiles.rows, tiles.cols / 2},
                                 PackNibbles(codes, NibbleOrder::kLowFirst, 0)}});
  out.push_back({kScales, TensorOf<uint8_t>(is_mx ? DType::kF8E8M0 : DType::kF8E4M3,
                                            {tiles.rows * tiles.blocks}, scales)});
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd
