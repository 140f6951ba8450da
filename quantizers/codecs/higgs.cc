#include "quantizers/codecs/higgs.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kTile[] = "higgs.tile";

// FLUTE's tables of a grid, [2^bits] and [2^bits, 2^bits, 2], in the model's dtype; the second is
// tagged float16 whatever that is.
struct Tables {
  Tensor single;
  Tensor pairs;
};

Tables TablesOf(const Grid& grid, DType dtype) {
  const bool vectors = grid.vector_length == 2;
  const int64_t size = int64_t{1} << (vectors ? grid.bits / 2 : grid.bits);
  std::vector<float> single, pairs;
  for (int64_t a = 0; a < size; ++a) {
    // FLUTE does not look at it when codes stand for pairs.
    single.push_back(vectors ? static_cast<float>(a) : grid.table[a]);
    for (int64_t b = 0; b < size; ++b) {
      const int64_t point = 2 * (a * size + b);
      pairs.push_back(vectors ? grid.table[point] : grid.table[a]);
      pairs.push_back(vectors ? grid.table[point + 1] : grid.table[b]);
    }
  }
  Tables tables{FloatTensor(dtype, {size}, single), FloatTensor(dtype, {size, size, 2}, pairs)};
  tables.pairs.dtype = DType::kF16;
  return tables;
}

// A pair's code is two codes of FLUTE's, the high half for the first element.
std::vector<uint8_t> SplitPairs(const std::vector<uint8_t>& pairs, int bits) {
  std::vector<uint8_t> codes(2 * pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    codes[2 * i] = pairs[i] >> bits;
    codes[2 * i + 1] = pairs[i] & ((1 << bits) - 1);
  }
  return codes;
}

std::vector<uint8_t> JoinPairs(const std::vector<uint8_t>& codes, int bits) {
  std::vector<uint8_t> pairs(codes.size() / 2);
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i] = static_cast<uint8_t>(codes[2 * i] << bits | codes[2 * i + 1]);
  }
  return pairs;
}

}  // namespace

void MarkHiggs(const FlutePacking& packing, QuantizedTensor* weight) {
  weight->attributes[kTile] = absl::StrCat(packing.tile);
}

bool HiggsCodec::IsQuantized(const ModuleTensors& tensors) const {
  const auto weight = tensors.Describe("weight");
  return weight.ok() && (weight->dtype == DType::kI16 || tensors.Has("tables2"));
}

std::vector<std::string> HiggsCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names = {"weight"};
  for (const char* name : {"scales", "tables", "tables2"}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> HiggsCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, "weight"));
  if (words[0] % config_.bits != 0) {
    return TensorError(tensors, "weight",
                       absl::StrCat("found ", words[0], " rows of words, expected a multiple of ",
                                    config_.bits, " for ", config_.bits, " bits"));
  }
  const Shape shape = {words[0] / config_.bits * 16, words[1]};
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight", shape));
  return shape;
}

absl::StatusOr<FlutePacking> HiggsCodec::PackingOf(const ModuleTensors& tensors,
                                                   const Shape& shape) const {
  const HiggsTuning* tuning = config_.Find(tensors.module());
  if (tuning == nullptr) {
    return TensorError(tensors, "weight",
                       "quantization_config.tune_metadata has no entry for the module, without "
                       "which the order of its codes is not known");
  }
  if (tuning->n != shape[0] || tuning->k != shape[1]) {
    return TensorError(tensors, "weight",
                       absl::StrCat("found a matrix of ", shape[0], "x", shape[1],
                                    ", but tune_metadata says N ", tuning->n, ", K ", tuning->k));
  }
  const FlutePacking packing = config_.PackingOf(*tuning);
  if (shape[0] % packing.row_multiple() != 0 || shape[1] % config_.hadamard_size != 0) {
    return TensorError(
        tensors, "weight",
        absl::StrCat("found a matrix of ", shape[0], "x", shape[1], ", expected a multiple of ",
                     packing.row_multiple(), " by ", config_.hadamard_size, " (hadamard_size)"));
  }
  return packing;
}

absl::Status HiggsCodec::DecodeGrid(const ModuleTensors& tensors, QuantizedTensor* out) const {
  const int64_t size = int64_t{1} << config_.bits;
  const DType dtype = out->scale_dtype;
  ASSIGN_OR_RETURN(const Tensor single, ReadTensor(tensors, "tables", {dtype}, Shape{size}));
  ASSIGN_OR_RETURN(Tensor pairs,
                   ReadTensor(tensors, "tables2", {DType::kF16}, Shape{size, size, 2}));
  pairs.dtype = dtype;
  const TensorView source = config_.p == 2 ? pairs.view() : single.view();
  std::vector<float> table(static_cast<size_t>(source.elements()));
  LoadFloats(source, 0, source.elements(), table.data());
  for (size_t i = 0; i < table.size(); ++i) {
    if (std::isfinite(table[i])) continue;
    return TensorError(tensors, config_.p == 2 ? "tables2" : "tables",
                       absl::StrCat("element ", i, " is not a finite number"));
  }
  out->grid = TableGrid(config_.bits * config_.p, std::move(table));
  if (config_.p == 2) out->grid.kind = Grid::Kind::kCodebook;
  out->grid.vector_length = config_.p;
  const Tables expected = TablesOf(out->grid, dtype);
  if (expected.single.bytes != single.bytes) {
    return TensorError(tensors, "tables", "expected 0, 1, 2 and so on beside a grid of pairs");
  }
  if (expected.pairs.bytes != pairs.bytes) {
    return TensorError(tensors, "tables2", "expected all pairs of `tables`");
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> HiggsCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  ASSIGN_OR_RETURN(const FlutePacking packing, PackingOf(tensors, shape));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.block = {.rows = 1, .cols = config_.group_size};
  out.input.hadamard_size = static_cast<int>(config_.hadamard_size);
  ASSIGN_OR_RETURN(out.scale, ReadFiniteFloats(tensors, "scales", {DType::kF16, DType::kBF16},
                                               Shape{out.rows, out.cols / config_.group_size}));
  ASSIGN_OR_RETURN(const TensorView scales, tensors.Describe("scales"));
  out.scale_dtype = out.dequantized_dtype = scales.dtype;
  RETURN_IF_ERROR(DecodeGrid(tensors, &out));
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, "weight", {DType::kI16},
                                                  Shape{packing.word_rows(out.rows), out.cols}));
  out.codes = UnpackFlute(packing, Elements<uint16_t>(words), out.rows, out.cols);
  if (config_.p == 2) out.codes = JoinPairs(out.codes, config_.bits);
  MarkHiggs(packing, &out);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> HiggsCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string tile, RequireAttribute(weight, kTile, quant_method()));
  FlutePacking packing;
  packing.bits = weight.grid.bits / weight.grid.vector_length;
  if (!absl::SimpleAtoi(tile, &packing.tile) || (packing.tile != 32 && packing.tile != 64)) {
    return absl::InvalidArgumentError(absl::StrCat("FLUTE has no tiles of ", tile));
  }
  const bool vectors = weight.grid.vector_length == 2;
  const std::vector<uint16_t> words =
      PackFlute(packing, vectors ? SplitPairs(weight.codes, packing.bits) : weight.codes,
                weight.rows, weight.cols);
  Tables tables = TablesOf(weight.grid, weight.scale_dtype);
  std::vector<NamedTensor> out;
  out.push_back({"weight", TensorOf<uint16_t>(
                               DType::kI16, {packing.word_rows(weight.rows), weight.cols}, words)});
  out.push_back({"scales", FloatTensor(weight.scale_dtype, {weight.rows, weight.block_columns()},
                                       weight.scale)});
  out.push_back({"tables", std::move(tables.single)});
  out.push_back({"tables2", std::move(tables.pairs)});
  return out;
}

}  // namespace quantd
