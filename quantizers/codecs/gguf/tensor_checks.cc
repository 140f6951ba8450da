#include "quantizers/codecs/gguf/tensor_checks.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "quantizers/codecs/gguf/metadata_fields.h"
#include "quantizers/codecs/gguf/model_mapping.h"

namespace quantd::gguf {
namespace {

struct Expected {
  std::string name;
  Shape shape;
};

bool HoldsWeights(const GgufTensorInfo& tensor) {
  switch (tensor.type) {
    case GgmlType::kI8:
    case GgmlType::kI16:
    case GgmlType::kI32:
    case GgmlType::kI64:
      return false;
    default:
      break;
  }
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(tensor.type));
  return info != nullptr && (tensor.shape.size() == 2 || info->block_elements == 1);
}

absl::Status CheckOne(const TensorIndex& tensors, const Expected& expected) {
  const auto found = tensors.find(expected.name);
  if (found == tensors.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF tensor ", expected.name, " is missing, expected ", ToString(expected.shape)));
  }
  const GgufTensorInfo& tensor = *found->second;
  if (tensor.shape != expected.shape) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF tensor ", expected.name, ": found ",
                                                   ToString(tensor.shape), ", expected ",
                                                   ToString(expected.shape)));
  }
  if (!HoldsWeights(tensor)) {
    const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(tensor.type));
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF tensor ", expected.name, ": found type ", info != nullptr ? info->name : "unknown",
        ", expected a float type", tensor.shape.size() == 2 ? " or blocks" : ""));
  }
  return absl::OkStatus();
}

// Weight and, when `bias` says so, bias of a linear.
void AddLinear(const std::string& module, int64_t out, int64_t in, bool bias,
               std::vector<Expected>* list) {
  list->push_back({module + ".weight", {out, in}});
  if (bias) list->push_back({module + ".bias", {out}});
}
void AddNorm(const std::string& module, int64_t width, bool bias, std::vector<Expected>* list) {
  list->push_back({module + ".weight", {width}});
  if (bias) list->push_back({module + ".bias", {width}});
}

std::vector<Expected> OutsideBlocks(const ModelConfig& c) {
  std::vector<Expected> list;
  list.push_back({"token_embd.weight", {c.vocab_size, c.hidden_size}});
  if (c.is_encoder()) {
    list.push_back({"position_embd.weight", {c.max_position_embeddings, c.hidden_size}});
    list.push_back({"token_types.weight", {c.type_vocab_size, c.hidden_size}});
    AddNorm("token_embd_norm", c.hidden_size, true, &list);
    return list;
  }
  AddNorm("output_norm", c.hidden_size, false, &list);
  if (!c.tie_word_embeddings) list.push_back({"output.weight", {c.vocab_size, c.hidden_size}});
  return list;
}

std::vector<Expected> InBlock(const ModelConfig& c, int64_t layer) {
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  const int64_t q = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const bool encoder = c.is_encoder();
  std::vector<Expected> list;
  const int64_t fused = c.fused_projections ? 2 : 1;  // gate and up
  if (c.fused_projections) {
    AddLinear(prefix + "attn_qkv", q + 2 * kv, c.hidden_size, c.attention_bias, &list);
  } else {
    AddLinear(prefix + "attn_q", q, c.hidden_size, c.attention_bias, &list);
    AddLinear(prefix + "attn_k", kv, c.hidden_size, c.attention_bias, &list);
    AddLinear(prefix + "attn_v", kv, c.hidden_size, c.attention_bias, &list);
  }
  for (const char* norm : {"attn_q_norm", "attn_k_norm"}) {
    if (c.qk_norm) AddNorm(prefix + norm, c.head_dim, false, &list);
  }
  AddLinear(prefix + "attn_output", c.hidden_size, q, encoder, &list);
  AddLinear(prefix + "ffn_up", fused * c.intermediate_size, c.hidden_size, c.mlp_bias, &list);
  AddLinear(prefix + "ffn_down", c.hidden_size, c.intermediate_size, c.mlp_bias, &list);
  if (encoder) {
    AddNorm(prefix + "attn_output_norm", c.hidden_size, true, &list);
    AddNorm(prefix + "layer_output_norm", c.hidden_size, true, &list);
  } else {
    if (!c.fused_projections) {
      AddLinear(prefix + "ffn_gate", c.intermediate_size, c.hidden_size, c.mlp_bias, &list);
    }
    AddNorm(prefix + "attn_norm", c.hidden_size, false, &list);
    AddNorm(prefix + "ffn_norm", c.hidden_size, false, &list);
  }
  return list;
}

}  // namespace

TensorIndex IndexTensors(const GgufHeader& header) {
  TensorIndex index;
  for (const GgufTensorInfo& tensor : header.tensors) index.emplace(tensor.name, &tensor);
  return index;
}

absl::Status CheckTensors(const TensorIndex& tensors, const ModelConfig& config) {
  for (const Expected& expected : OutsideBlocks(config)) {
    RETURN_IF_ERROR(CheckOne(tensors, expected));
  }
  // Ends at the first layer that is not there, however many the metadata promise.
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const Expected& expected : InBlock(config, layer)) {
      RETURN_IF_ERROR(CheckOne(tensors, expected));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    const std::vector<absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits('.', 2));
    int64_t layer;
    if (parts.size() < 3 || parts[0] != "blk" || !absl::SimpleAtoi(parts[1], &layer)) continue;
    if (layer < 0 || layer >= config.num_hidden_layers) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF tensor ", QuotedName(name),
                                                     " lies outside the ", config.num_hidden_layers,
                                                     " blocks"));
    }
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::kLongRope) {
    for (const absl::string_view name : {kRopeLongFactors, kRopeShortFactors}) {
      RETURN_IF_ERROR(CheckOne(tensors, {std::string(name), {config.rotary_dims() / 2}}));
    }
  }
  if (!tensors.contains(std::string(kRopeFrequencies))) return absl::OkStatus();
  return CheckOne(tensors, {std::string(kRopeFrequencies), {config.rotary_dims() / 2}});
}

}  // namespace quantd::gguf
