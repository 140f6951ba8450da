#include "quantizers/codecs/autoround.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kPacking[] = "autoround.packing";
constexpr char kGroupIndex[] = "autoround.g_idx";
constexpr int64_t kRun = 32;  // codes that fill whole words at every width

// The facts of one stored matrix, from config and shapes.
struct Stored {
  int bits = 4;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;

  int64_t groups() const { return (cols + group_size - 1) / group_size; }
  int64_t words_of(int64_t codes) const { return codes / kRun * bits; }
};

absl::StatusOr<AutoRoundLayer> LayerOf(const ModuleTensors& tensors,
                                       const AutoRoundConfig& config) {
  ASSIGN_OR_RETURN(const AutoRoundLayer layer, config.LayerOf(tensors.module()));
  const bool awq = config.packing == AutoRoundPacking::kAwq;
  const int least = awq ? 4 : 2;
  const int most = awq ? 7 : 8;
  if (layer.bits >= least && layer.bits <= most) return layer;
  return TensorError(
      tensors, "qweight",
      absl::StrCat("quantization_config gives the module ", layer.bits, " bits; expected ", least,
                   " to ", most, " where ", PackingFormatOf(config), " stores it quantized"));
}

AwqCodec AwqCodecFor(const AutoRoundLayer& layer) {
  AwqConfig config;
  config.bits = layer.bits;
  config.group_size = layer.group_size;
  config.zero_point = !layer.sym;
  config.by_auto_round = true;
  return AwqCodec(std::move(config));
}

absl::StatusOr<Stored> ReadStored(const ModuleTensors& tensors, const AutoRoundLayer& layer) {
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, "qweight"));
  Stored stored;
  stored.bits = layer.bits;
  stored.rows = words[1];
  stored.cols = words[0] / layer.bits * kRun;
  if (words[0] % layer.bits != 0 || words[1] % kRun != 0) {
    return TensorError(tensors, "qweight",
                       absl::StrCat("found ", ToString(words), ", expected a multiple of ",
                                    layer.bits, " rows (", layer.bits, " bits for each of a ",
                                    "multiple of 32 inputs) and of 32 columns"));
  }
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "qweight", {stored.rows, stored.cols}));
  stored.group_size =
      layer.group_size == -1 ? stored.cols : std::min(layer.group_size, stored.cols);
  return stored;
}

absl::Status CheckGroupIndex(const ModuleTensors& tensors, const Stored& stored) {
  ASSIGN_OR_RETURN(const Tensor tensor,
                   ReadTensor(tensors, "g_idx", {DType::kI32}, Shape{stored.cols}));
  const std::vector<int32_t> group = Elements<int32_t>(tensor);
  for (int64_t col = 0; col < stored.cols; ++col) {
    if (group[col] == col / stored.group_size) continue;
    return TensorError(
        tensors, "g_idx",
        absl::StrCat("column ", col, " is in group ", group[col], ", expected ",
                     col / stored.group_size, "; auto-round ignores the order of columns"));
  }
  return absl::OkStatus();
}

Tensor WordTensor(Shape shape, const std::vector<uint32_t>& words) {
  return TensorOf<uint32_t>(DType::kI32, std::move(shape), words);
}

Tensor GroupIndex(const Stored& stored) {
  std::vector<int32_t> group(static_cast<size_t>(stored.cols));
  for (int64_t col = 0; col < stored.cols; ++col) {
    group[col] = static_cast<int32_t>(col / stored.group_size);
  }
  return TensorOf<int32_t>(DType::kI32, {stored.cols}, group);
}

}  // namespace

void MarkAutoRound(AutoRoundPacking packing, bool stores_group_index, QuantizedTensor* weight) {
  if (packing == AutoRoundPacking::kAwq) {
    return MarkAwq(AwqVersion::kGemm, /*interleaved=*/true, weight);
  }
  weight->attributes[kPacking] = std::string(packing == AutoRoundPacking::kGptq ? "gptq" : "plain");
  if (stores_group_index) weight->attributes[kGroupIndex] = std::to_string(1);
}

bool AutoRoundCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has("qweight");
}

std::vector<std::string> AutoRoundCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"qweight", "qzeros", "scales", "g_idx"}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> AutoRoundCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const AutoRoundLayer layer, LayerOf(tensors, config_));
  if (config_.packing == AutoRoundPacking::kAwq) return AwqCodecFor(layer).MatrixShape(tensors);
  ASSIGN_OR_RETURN(const Stored stored, ReadStored(tensors, layer));
  return Shape{stored.rows, stored.cols};
}

absl::StatusOr<QuantizedTensor> AutoRoundCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const AutoRoundLayer layer, LayerOf(tensors, config_));
  if (config_.packing == AutoRoundPacking::kAwq) return AwqCodecFor(layer).Decode(tensors);
  ASSIGN_OR_RETURN(const Stored stored, ReadStored(tensors, layer));
  if (tensors.Has("weight")) {
    return TensorError(tensors, "weight", "stands beside qweight; expected one of them");
  }
  const int64_t groups = stored.groups();
  const Shape words_shape = {stored.words_of(stored.cols), stored.rows};
  const Shape zeros_shape = {groups, stored.words_of(stored.rows)};
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, "qweight", {DType::kI32}, words_shape));
  ASSIGN_OR_RETURN(const Tensor zeros, ReadTensor(tensors, "qzeros", {DType::kI32}, zeros_shape));
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadFiniteFloats(tensors, "scales", {DType::kF16}, Shape{groups, stored.rows}));
  QuantizedTensor out;
  out.rows = stored.rows;
  out.cols = stored.cols;
  out.dequantized_dtype = DType::kF16;
  out.scale_dtype = DType::kF16;
  out.grid = UniformGrid(stored.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = stored.group_size};
  out.codes = UnpackWords(Transposed(Elements<uint32_t>(words), words_shape[0], words_shape[1]),
                          stored.rows, stored.cols, stored.bits, WordPacking::kDense);
  const auto zero = Transposed(
      UnpackWords(Elements<uint32_t>(zeros), groups, stored.rows, stored.bits, WordPacking::kDense),
      groups, stored.rows);
  const int less = config_.packing == AutoRoundPacking::kGptq ? 1 : 0;
  for (const uint8_t value : zero) out.zero_point.push_back(static_cast<float>(value + less));
  out.scale = Transposed(scales, groups, stored.rows);
  if (tensors.Has("g_idx")) RETURN_IF_ERROR(CheckGroupIndex(tensors, stored));
  MarkAutoRound(config_.packing, tensors.Has("g_idx"), &out);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> AutoRoundCodec::Encode(
    const QuantizedTensor& weight) const {
  const std::string packing = Attribute(weight, kPacking);
  if (packing.empty()) return AwqCodecFor(config_.layer).Encode(weight);
  Stored stored;
  stored.bits = weight.grid.bits;
  stored.rows = weight.rows;
  stored.cols = weight.cols;
  stored.group_size = weight.block.cols > 0 ? weight.block.cols : weight.cols;
  const int64_t groups = stored.groups();
  const float less = packing == "gptq" ? 1 : 0;
  std::vector<uint8_t> zero;
  zero.reserve(weight.zero_point.size());
  for (const float value : weight.zero_point) {
    zero.push_back(static_cast<uint8_t>(std::max(0.0f, value - less)));
  }
  const auto words = Transposed(
      PackWords(weight.codes, stored.rows, stored.cols, stored.bits, WordPacking::kDense),
      stored.rows, stored.words_of(stored.cols));
  const auto zeros = PackWords(Transposed(zero, stored.rows, groups), groups, stored.rows,
                               stored.bits, WordPacking::kDense);
  std::vector<NamedTensor> out;
  out.push_back({"qweight", WordTensor({stored.words_of(stored.cols), stored.rows}, words)});
  out.push_back({"qzeros", WordTensor({groups, stored.words_of(stored.rows)}, zeros)});
  out.push_back({"scales", FloatTensor(DType::kF16, {groups, stored.rows},
                                       Transposed(weight.scale, stored.rows, groups))});
  if (!Attribute(weight, kGroupIndex).empty()) out.push_back({"g_idx", GroupIndex(stored)});
  return out;
}

}  // namespace quantd
