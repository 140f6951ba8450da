#include "models/calibration/block_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "kernels/product_device.h"
#include "models/architectures/decoder.h"
#include "models/architectures/encoder.h"
#include "models/architectures/rope.h"
#include "models/calibration/dense_block.h"
#include "models/parameters.h"
#include "quantizers/parameter_names.h"
#include "quantizers/plain_weight.h"

namespace quantd {
namespace {

using calibration::BlockNames;
using calibration::DenseBlock;

class SourceBlocks final : public BlockModel {
 public:
  SourceBlocks(std::unique_ptr<ModelSource> source, BlockModelOptions options)
      : source_(std::move(source)), options_(std::move(options)) {
    if (!config().is_encoder()) rope_ = RopeTable(config(), options_.positions);
  }

  int64_t blocks() const override { return config().num_hidden_layers; }
  int64_t hidden_size() const override { return config().hidden_size; }

  std::vector<std::string> ParametersOf(int64_t block) const override {
    std::vector<std::string> names;
    for (const SourceParameter& parameter : source_->parameters()) {
      if (absl::StartsWith(parameter.name, PrefixOf(block))) names.push_back(parameter.name);
    }
    return names;
  }

  absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) override {
    if (!embedding_) {
      ASSIGN_OR_RETURN(embedding_, ReadTable(EmbeddingName(), config().vocab_size));
      if (config().is_encoder()) RETURN_IF_ERROR(ReadEncoderEmbeddings());
    }
    const int64_t width = hidden_size();
    std::vector<float> hidden(tokens.size() * static_cast<size_t>(width));
    for (size_t t = 0; t < tokens.size(); ++t) {
      LoadFloats(embedding_->view(), tokens[t] * width, width, hidden.data() + t * width);
    }
    if (config().is_encoder()) FinishEncoderEmbedding(hidden);
    return hidden;
  }

  absl::StatusOr<std::unique_ptr<CalibratedBlock>> LoadBlock(int64_t block) override {
    embedding_.reset();
    const std::string prefix = PrefixOf(block);
    const BlockNames names = calibration::NamesOf(config(), prefix);
    std::map<std::string, std::vector<float>> parameters;
    for (const BlockLinear& linear : calibration::LinearsOf(config(), names)) {
      if (options_.stopped && options_.stopped()) return absl::CancelledError("stopped");
      const std::string name = absl::StrCat(linear.module, ".weight");
      ASSIGN_OR_RETURN(Weight weight, ReadMatrix(*source_, name, linear.rows, linear.cols));
      RETURN_IF_ERROR(CheckCanBePlain(name, weight, HasBias(*source_, name)));
      const Tensor plain = ToPlain(std::move(weight), DType::kF32);
      std::vector<float>& values = parameters[name];
      values.resize(static_cast<size_t>(linear.rows * linear.cols));
      LoadFloats(plain.view(), 0, linear.rows * linear.cols, values.data());
      RETURN_IF_ERROR(AddVector(absl::StrCat(linear.module, ".bias"), linear.rows, parameters));
    }
    for (const std::string& norm : {names.attention_norm, names.mlp_norm}) {
      for (const char* local : {".weight", ".bias"}) {
        RETURN_IF_ERROR(AddVector(absl::StrCat(norm, local), hidden_size(), parameters));
      }
    }
    for (const std::string& norm : {names.q_norm, names.k_norm}) {
      RETURN_IF_ERROR(AddVector(absl::StrCat(norm, ".weight"), config().head_dim, parameters));
    }
    return std::make_unique<DenseBlock>(config(), names, std::move(parameters),
                                        config().is_encoder() ? nullptr : &rope_, options_.stopped,
                                        options_.device.get());
  }

 private:
  const ModelConfig& config() const { return source_->config(); }
  std::string PrefixOf(int64_t block) const {
    return config().is_encoder() ? EncoderBlockPrefix(*source_, block)
                                 : DecoderBlockPrefix(*source_, block);
  }

  std::string EmbeddingName() const {
    if (config().is_encoder()) return absl::StrCat(EmbeddingsPrefix(), "word_embeddings.weight");
    return source_->Has("embed_tokens.weight") ? "embed_tokens.weight"
                                               : "model.embed_tokens.weight";
  }
  std::string EmbeddingsPrefix() const {
    return source_->Has("embeddings.word_embeddings.weight") ? "embeddings." : "bert.embeddings.";
  }

  // A table in its own dtype; float32 when the source is quantized.
  absl::StatusOr<Tensor> ReadTable(const std::string& name, int64_t rows) const {
    ASSIGN_OR_RETURN(Weight weight, ReadMatrix(*source_, name, rows, config().hidden_size));
    if (auto* tensor = std::get_if<Tensor>(&weight)) return std::move(*tensor);
    return ToPlain(std::move(weight), DType::kF32);
  }

  // Absent vectors are left out: biases that a checkpoint does without.
  absl::Status AddVector(const std::string& name, int64_t size,
                         std::map<std::string, std::vector<float>>& parameters) const {
    if (!source_->Has(name)) return absl::OkStatus();
    ASSIGN_OR_RETURN(parameters[name], ReadVector(*source_, name, size));
    return absl::OkStatus();
  }

  absl::Status ReadEncoderEmbeddings() {
    const std::string prefix = EmbeddingsPrefix();
    const int64_t width = hidden_size();
    ASSIGN_OR_RETURN(const Tensor positions,
                     ReadTable(absl::StrCat(prefix, "position_embeddings.weight"),
                               config().max_position_embeddings));
    ASSIGN_OR_RETURN(
        const Tensor types,
        ReadTable(absl::StrCat(prefix, "token_type_embeddings.weight"), config().type_vocab_size));
    positions_.resize(static_cast<size_t>(options_.positions * width));
    LoadFloats(positions.view(), 0, options_.positions * width, positions_.data());
    std::vector<float> type(static_cast<size_t>(width));
    LoadFloats(types.view(), 0, width, type.data());
    for (size_t i = 0; i < positions_.size(); ++i) positions_[i] += type[i % type.size()];
    ASSIGN_OR_RETURN(norm_weight_,
                     ReadVector(*source_, absl::StrCat(prefix, "LayerNorm.weight"), width));
    ASSIGN_OR_RETURN(norm_bias_,
                     ReadVector(*source_, absl::StrCat(prefix, "LayerNorm.bias"), width));
    return absl::OkStatus();
  }

  void FinishEncoderEmbedding(std::vector<float>& hidden) const {
    const int64_t width = hidden_size();
    const calibration::RowNormArgs norm = {.is_layer_norm = true,
                                           .weight = norm_weight_.data(),
                                           .bias = norm_bias_.data(),
                                           .epsilon = static_cast<float>(config().norm_eps)};
    for (size_t i = 0; i < hidden.size(); ++i) hidden[i] += positions_[i];
    const int64_t tokens = static_cast<int64_t>(hidden.size()) / width;
    for (int64_t t = 0; t < tokens; ++t) {
      float* row = hidden.data() + t * width;
      calibration::NormalizeRow(norm, row, width, row);
    }
  }

  const std::unique_ptr<ModelSource> source_;
  const BlockModelOptions options_;
  std::vector<float> rope_;
  std::optional<Tensor> embedding_;  // while texts are embedded
  std::vector<float> positions_, norm_weight_, norm_bias_;
};

}  // namespace

absl::Status CheckProductRoom(const ModelConfig& config, int64_t tokens,
                              const ProductDevice& device) {
  uint64_t weights = 0, values = 0, largest = 0;
  for (const BlockLinear& linear :
       calibration::LinearsOf(config, calibration::NamesOf(config, ""))) {
    const auto rows = static_cast<uint64_t>(linear.rows), cols = static_cast<uint64_t>(linear.cols);
    const uint64_t in = cols * static_cast<uint64_t>(tokens);
    const uint64_t out = rows * static_cast<uint64_t>(tokens);
    weights += rows * cols;
    values = std::max(values, in + out);
    largest = std::max({largest, rows * cols, in, out});
  }
  return device.CheckRoom(sizeof(float) * (weights + values), sizeof(float) * largest);
}

absl::StatusOr<std::unique_ptr<BlockModel>> OpenBlockModel(std::unique_ptr<ModelSource> source,
                                                           BlockModelOptions options) {
  if (options.positions > source->config().max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("sequences of ", options.positions,
                                                   " tokens are beyond the model's context of ",
                                                   source->config().max_position_embeddings));
  }
  return std::make_unique<SourceBlocks>(std::move(source), std::move(options));
}

}  // namespace quantd
