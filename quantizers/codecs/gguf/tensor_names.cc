// Parameter names in both spellings, and the row order of rotary projections.
#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/huggingface/quantized_cache.h"
#include "quantizers/codecs/gguf/architectures.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/model_mapping.h"

namespace quantd {
namespace gguf {
namespace {

constexpr ModuleNames kDecoderModules[] = {
    {"model.embed_tokens", "token_embd"},
    {"lm_head", "output"},
    {"model.norm", "output_norm"},
    {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
};

constexpr ModuleNames kSeparateProjections[] = {
    {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
    {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
    {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
    {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
};

constexpr ModuleNames kFusedProjections[] = {
    {"model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"},
    {"model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"},
};

constexpr ModuleNames kHeadNorms[] = {
    {"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
    {"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"},
};

constexpr ModuleNames kBertModules[] = {
    {"embeddings.word_embeddings", "token_embd"},
    {"embeddings.position_embeddings", "position_embd"},
    {"embeddings.token_type_embeddings", "token_types"},
    {"embeddings.LayerNorm", "token_embd_norm"},
    {"encoder.layer.{}.attention.self.query", "blk.{}.attn_q"},
    {"encoder.layer.{}.attention.self.key", "blk.{}.attn_k"},
    {"encoder.layer.{}.attention.self.value", "blk.{}.attn_v"},
    {"encoder.layer.{}.attention.output.dense", "blk.{}.attn_output"},
    {"encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"},
    {"encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up"},
    {"encoder.layer.{}.output.dense", "blk.{}.ffn_down"},
    {"encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm"},
};

constexpr Architecture kArchitectures[] = {
    {"llama", "llama", "LlamaForCausalLM", true, false, {kDecoderModules, kSeparateProjections}},
    {"llama",
     "mistral",
     "MistralForCausalLM",
     true,
     false,
     {kDecoderModules, kSeparateProjections}},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false, false, {kDecoderModules, kSeparateProjections}},
    {"qwen3",
     "qwen3",
     "Qwen3ForCausalLM",
     false,
     false,
     {kDecoderModules, kSeparateProjections, kHeadNorms}},
    {"phi3", "phi3", "Phi3ForCausalLM", false, false, {kDecoderModules, kFusedProjections}},
    {"bert", "bert", "BertModel", false, true, {kBertModules}},
};

}  // namespace

const Architecture* FindArchitecture(absl::string_view gguf_name) {
  for (const Architecture& row : kArchitectures) {
    if (row.gguf == gguf_name) return &row;
  }
  return nullptr;
}

const Architecture* ArchitectureOf(const ModelConfig& config) {
  for (const Architecture& row : kArchitectures) {
    if (row.model_type == config.model_type) return &row;
  }
  return nullptr;
}

std::string KnownArchitectures() {
  std::string names;
  absl::string_view last;
  for (const Architecture& row : kArchitectures) {
    if (row.gguf == last) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", row.gguf);
    last = row.gguf;
  }
  return names;
}

}  // namespace gguf

namespace {

// The layer number that `name` has where `pattern` has "{}": -1 when the pattern has none, nullopt
// when they do not match. Only the canonical spelling of a number counts.
std::optional<int64_t> MatchLayer(absl::string_view pattern, absl::string_view name) {
  const size_t hole = pattern.find("{}");
  if (hole == absl::string_view::npos) {
    return pattern == name ? std::optional<int64_t>(-1) : std::nullopt;
  }
  if (!absl::ConsumePrefix(&name, pattern.substr(0, hole)) ||
      !absl::ConsumeSuffix(&name, pattern.substr(hole + 2))) {
    return std::nullopt;
  }
  int64_t layer;
  if (!absl::SimpleAtoi(name, &layer) || layer < 0 || absl::StrCat(layer) != name) {
    return std::nullopt;
  }
  return layer;
}

std::string WithLayer(absl::string_view pattern, int64_t layer) {
  const size_t hole = pattern.find("{}");
  if (hole == absl::string_view::npos) return std::string(pattern);
  return absl::StrCat(pattern.substr(0, hole), layer, pattern.substr(hole + 2));
}

// `name` without its last component, which must be "weight" or "bias".
std::optional<absl::string_view> ModuleOf(absl::string_view name, absl::string_view* parameter) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return std::nullopt;
  *parameter = name.substr(dot + 1);
  if (*parameter != "weight" && *parameter != "bias") return std::nullopt;
  return name.substr(0, dot);
}

using Spelling = absl::string_view gguf::ModuleNames::*;

std::optional<std::string> Translate(const ModelConfig& config, absl::string_view name,
                                     Spelling from, Spelling to) {
  const gguf::Architecture* architecture = gguf::ArchitectureOf(config);
  absl::string_view parameter;
  const std::optional<absl::string_view> module = ModuleOf(name, &parameter);
  if (architecture == nullptr || !module) return std::nullopt;
  for (const std::span<const gguf::ModuleNames> list : architecture->modules) {
    for (const gguf::ModuleNames& row : list) {
      const std::optional<int64_t> layer = MatchLayer(row.*from, *module);
      if (!layer) continue;
      if (*layer >= config.num_hidden_layers) return std::nullopt;
      return absl::StrCat(WithLayer(row.*to, *layer), ".", parameter);
    }
  }
  return std::nullopt;
}

// Heads whose rows are reordered in `hf_name`; 0 when they are not.
int64_t PermutedHeads(const ModelConfig& config, absl::string_view hf_name) {
  const gguf::Architecture* architecture = gguf::ArchitectureOf(config);
  if (architecture == nullptr || !architecture->permutes_qk || config.head_dim % 2 != 0) return 0;
  absl::string_view parameter;
  const std::optional<absl::string_view> module = ModuleOf(hf_name, &parameter);
  if (!module) return 0;
  if (absl::EndsWith(*module, ".self_attn.q_proj")) return config.num_attention_heads;
  if (absl::EndsWith(*module, ".self_attn.k_proj")) return config.num_key_value_heads;
  return 0;
}

bool IsOfAQuantizedCache(absl::string_view hf_name) {
  return std::ranges::any_of(kQuantizedCacheParameters, [hf_name](absl::string_view end) {
    return absl::EndsWith(hf_name, end);
  });
}

}  // namespace

std::optional<std::string> GgufNameFor(const ModelConfig& config, absl::string_view hf_name) {
  // BertFor... classes nest the encoder.
  if (config.is_encoder()) absl::ConsumePrefix(&hf_name, "bert.");
  return Translate(config, hf_name, &gguf::ModuleNames::hf, &gguf::ModuleNames::gguf);
}

std::optional<std::string> HfNameFor(const ModelConfig& config, absl::string_view gguf_name) {
  return Translate(config, gguf_name, &gguf::ModuleNames::gguf, &gguf::ModuleNames::hf);
}

bool IsLeftOutOfGguf(const ModelConfig& config, absl::string_view hf_name) {
  if (absl::EndsWith(hf_name, ".rotary_emb.inv_freq") || IsOfAQuantizedCache(hf_name)) return true;
  if (!config.is_encoder()) return false;
  absl::ConsumePrefix(&hf_name, "bert.");
  return hf_name == "embeddings.position_ids" || absl::StartsWith(hf_name, "pooler.");
}

std::vector<int64_t> RowOrderToGguf(const ModelConfig& config, absl::string_view hf_name) {
  const int64_t heads = PermutedHeads(config, hf_name);
  const int64_t half = config.head_dim / 2;
  std::vector<int64_t> order;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t j = 0; j < half; ++j) {
      order.push_back(h * config.head_dim + j);
      order.push_back(h * config.head_dim + half + j);
    }
  }
  return order;
}

std::vector<int64_t> RowOrderToHf(const ModelConfig& config, absl::string_view hf_name) {
  const std::vector<int64_t> to_gguf = RowOrderToGguf(config, hf_name);
  std::vector<int64_t> order(to_gguf.size());
  for (size_t i = 0; i < to_gguf.size(); ++i) order[to_gguf[i]] = static_cast<int64_t>(i);
  return order;
}

absl::StatusOr<Weight> PermuteRows(Weight weight, const std::vector<int64_t>& order) {
  if (order.empty()) return weight;
  const Tensor* plain = std::get_if<Tensor>(&weight);
  const int64_t rows = plain == nullptr       ? std::get<QuantizedTensor>(weight).rows
                       : plain->shape.empty() ? 1
                                              : plain->shape[0];
  if (rows != static_cast<int64_t>(order.size())) {
    return absl::InvalidArgumentError(absl::StrCat("found ", rows, " rows to reorder, expected ",
                                                   order.size(), " (heads x head dimension)"));
  }
  if (plain == nullptr) {
    ASSIGN_OR_RETURN(QuantizedTensor out, ReorderRows(std::get<QuantizedTensor>(weight), order));
    ReorderStoredBlocks(order, out);
    return Weight(std::move(out));
  }
  Tensor out{plain->dtype, plain->shape, {}};
  out.bytes.resize(plain->bytes.size());
  const size_t row_bytes = plain->bytes.size() / rows;
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(plain->bytes.begin() + order[r] * row_bytes, row_bytes,
                out.bytes.begin() + r * row_bytes);
  }
  return Weight(std::move(out));
}

}  // namespace quantd
