#include "quantizers/parameter_names.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

bool IsEmbeddingTable(absl::string_view module) {
  return absl::EndsWith(module, "embed_tokens") || absl::EndsWith(module, "_embeddings");
}

// Index after "layers" (decoders) or "layer" (BERT); -1 outside the blocks.
int LayerOf(absl::string_view module) {
  const std::vector<absl::string_view> parts = absl::StrSplit(module, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    int layer;
    if ((parts[i] == "layers" || parts[i] == "layer") && absl::SimpleAtoi(parts[i + 1], &layer)) {
      return layer;
    }
  }
  return -1;
}

}  // namespace

ParameterName SplitParameterName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  size_t split = parts.size() - 1;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (absl::StartsWith(parts[i], "weight") || absl::StartsWith(parts[i], "_weight") ||
        absl::StartsWith(parts[i], "qweight") || parts[i] == "rms_norm" || parts[i] == "meta" ||
        parts[i] == "centroids" || parts[i] == "res_centroids" || parts[i] == "outlier_centroids") {
      split = i;
      break;
    }
  }
  return {absl::StrJoin(parts.begin(), parts.begin() + split, "."),
          absl::StrJoin(parts.begin() + split, parts.end(), ".")};
}

bool IsWeightMatrix(const SourceParameter& parameter) {
  return parameter.shape.size() == 2 && SplitParameterName(parameter.name).local == "weight";
}

bool HasBias(const ModelSource& source, absl::string_view weight) {
  return source.Has(absl::StrCat(SplitParameterName(weight).module, ".bias"));
}

std::vector<std::string> LinearsOutsideBlocks(const ModelConfig& config) {
  if (config.is_encoder()) return {"pooler.dense"};
  return {};
}

std::string BlocksName(const ModelConfig& config) {
  return config.is_encoder() ? "encoder.layer" : "model.layers";
}

ModuleInfo MakeModuleInfo(const SourceParameter& parameter, const ModelConfig& config) {
  ModuleInfo info;
  info.name = SplitParameterName(parameter.name).module;
  info.is_linear = !IsEmbeddingTable(info.name);
  info.is_output_embedding = absl::EndsWith(info.name, "lm_head");
  info.is_tied = config.tie_word_embeddings &&
                 (info.is_output_embedding || absl::EndsWith(info.name, "embed_tokens"));
  // Last in the order of torch's named_parameters: the head of a decoder, the pooler of a
  // BertModel.
  info.is_last =
      config.is_encoder() ? absl::EndsWith(info.name, "pooler.dense") : info.is_output_embedding;
  info.rows = parameter.shape[0];
  info.cols = parameter.shape[1];
  info.layer = LayerOf(info.name);
  return info;
}

}  // namespace quantd
