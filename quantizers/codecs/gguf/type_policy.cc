// Which type each tensor of a file type gets. Source: llama_tensor_get_type in llama-quant.cpp
// (ggml 0.25.3), for models without experts.
#include <algorithm>
#include <span>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "quantizers/codecs/gguf/model_mapping.h"

namespace quantd {
namespace {

using T = GgmlType;

enum FileType : uint32_t {
  kAllF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 7,
  kQ5_0 = 8,
  kQ5_1 = 9,
  kQ2_K = 10,
  kQ3_K_S = 11,
  kQ3_K_M = 12,
  kQ3_K_L = 13,
  kQ4_K_S = 14,
  kQ4_K_M = 15,
  kQ5_K_S = 16,
  kQ5_K_M = 17,
  kQ6_K = 18,
  kIQ2_XXS = 19,
  kIQ2_XS = 20,
  kQ2_K_S = 21,
  kIQ3_XS = 22,
  kIQ3_XXS = 23,
  kIQ1_S = 24,
  kIQ4_NL = 25,
  kIQ3_S = 26,
  kIQ3_M = 27,
  kIQ2_S = 28,
  kIQ2_M = 29,
  kIQ4_XS = 30,
  kIQ1_M = 31,
  kBF16 = 32,
  kTQ1_0 = 36,
  kTQ2_0 = 37,
  kMXFP4 = 38,
  kNVFP4 = 39,
  kQ1_0 = 40,
  kQ2_0 = 41,
};

struct FileTypeRow {
  absl::string_view name;
  FileType number;
  GgmlType base;
};
// MXFP4_MOE is upstream's: MXFP4 experts, all else Q8_0. MXFP4 does the same to the matrices of
// dense models, whose tables stay Q8_0.
constexpr FileTypeRow kFileTypes[] = {
    {"F32", kAllF32, T::kF32},          {"F16", kF16, T::kF16},
    {"BF16", kBF16, T::kBF16},          {"Q8_0", kQ8_0, T::kQ8_0},
    {"Q6_K", kQ6_K, T::kQ6_K},          {"Q5_K_M", kQ5_K_M, T::kQ5_K},
    {"Q5_K_S", kQ5_K_S, T::kQ5_K},      {"Q5_1", kQ5_1, T::kQ5_1},
    {"Q5_0", kQ5_0, T::kQ5_0},          {"Q4_K_M", kQ4_K_M, T::kQ4_K},
    {"Q4_K_S", kQ4_K_S, T::kQ4_K},      {"IQ4_NL", kIQ4_NL, T::kIQ4_NL},
    {"IQ4_XS", kIQ4_XS, T::kIQ4_XS},    {"Q4_1", kQ4_1, T::kQ4_1},
    {"Q4_0", kQ4_0, T::kQ4_0},          {"MXFP4_MOE", kMXFP4, T::kQ8_0},
    {"MXFP4", kMXFP4, T::kMXFP4},       {"NVFP4", kNVFP4, T::kNVFP4},
    {"Q3_K_L", kQ3_K_L, T::kQ3_K},      {"Q3_K_M", kQ3_K_M, T::kQ3_K},
    {"Q3_K_S", kQ3_K_S, T::kQ3_K},      {"IQ3_M", kIQ3_M, T::kIQ3_S},
    {"IQ3_S", kIQ3_S, T::kIQ3_S},       {"IQ3_XS", kIQ3_XS, T::kIQ3_S},
    {"IQ3_XXS", kIQ3_XXS, T::kIQ3_XXS}, {"Q2_K", kQ2_K, T::kQ2_K},
    {"Q2_K_S", kQ2_K_S, T::kQ2_K},      {"Q2_0", kQ2_0, T::kQ2_0},
    {"IQ2_M", kIQ2_M, T::kIQ2_S},       {"IQ2_S", kIQ2_S, T::kIQ2_XS},
    {"IQ2_XS", kIQ2_XS, T::kIQ2_XS},    {"IQ2_XXS", kIQ2_XXS, T::kIQ2_XXS},
    {"TQ2_0", kTQ2_0, T::kTQ2_0},       {"TQ1_0", kTQ1_0, T::kTQ1_0},
    {"IQ1_M", kIQ1_M, T::kIQ1_M},       {"IQ1_S", kIQ1_S, T::kIQ1_S},
    {"Q1_0", kQ1_0, T::kQ1_0},
};

// What llama-quantize's short names mean.
absl::string_view WithoutAlias(absl::string_view name) {
  if (name == "Q3_K") return "Q3_K_M";
  if (name == "Q4_K") return "Q4_K_M";
  if (name == "Q5_K") return "Q5_K_M";
  return name;
}

bool OneOf(uint32_t file_type, std::initializer_list<FileType> list) {
  return std::find(list.begin(), list.end(), file_type) != list.end();
}

bool IsPlain(GgmlType type) {
  return type == T::kF32 || type == T::kF16 || type == T::kBF16 || type == T::kF64;
}

// The tensor as the mixtures look at it.
struct Place {
  int layer = -1;
  int layers = 0;
  int64_t cols = 0;
  int64_t gqa = 1;  // query heads per key head
  bool importance = false;
  bool seventy_billion = false;

  // The first and last eighth and every third layer between.
  bool more_bits() const {
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
  }
  bool first_eighth() const { return layer < layers / 8; }
};

bool IsVeryLowBit(uint32_t ftype) {
  return OneOf(ftype, {kIQ2_XXS, kIQ2_XS, kIQ2_S, kIQ2_M, kIQ1_S, kIQ1_M});
}

GgmlType OutputType(uint32_t ftype, GgmlType base, int64_t cols) {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(base));
  if (ftype == kMXFP4 || cols % info->block_elements != 0) return T::kQ8_0;
  if (IsVeryLowBit(ftype) || ftype == kIQ3_XXS) return T::kQ5_K;
  return base == T::kQ8_0 ? base : T::kQ6_K;
}

GgmlType EmbeddingType(uint32_t ftype, GgmlType base) {
  if (OneOf(ftype, {kIQ2_XXS, kIQ2_XS, kIQ1_S, kIQ1_M})) return T::kQ2_K;
  if (OneOf(ftype, {kIQ2_S, kIQ2_M, kIQ3_XXS})) return T::kIQ3_S;
  if (OneOf(ftype, {kTQ1_0, kTQ2_0, kQ2_0})) return T::kQ4_K;
  return ftype == kMXFP4 ? T::kQ8_0 : base;
}

// attn_v, ffn_down and attn_output of the types below three bits.
GgmlType VeryLowBitType(uint32_t ftype, GgmlType base, absl::string_view kind, const Place& t) {
  const bool two_bit_s = OneOf(ftype, {kIQ2_S, kIQ2_M});
  if (kind == "attn_v") return t.gqa >= 4 ? T::kQ4_K : two_bit_s ? T::kIQ3_S : T::kQ2_K;
  if (kind == "ffn_down" && t.first_eighth()) return two_bit_s ? T::kIQ3_S : T::kQ2_K;
  if (kind == "attn_output") {
    if (OneOf(ftype, {kIQ1_S, kIQ1_M})) return T::kIQ2_XXS;
    if (two_bit_s) return T::kIQ3_S;
  }
  return base;
}

GgmlType ValueType(uint32_t ftype, GgmlType base, const Place& t) {
  GgmlType type = base;
  if (ftype == kQ2_K) {
    type = t.gqa >= 4 ? T::kQ4_K : T::kQ3_K;
  } else if (OneOf(ftype, {kQ2_K_S, kIQ3_XS, kIQ3_S}) && t.gqa >= 4) {
    type = T::kQ4_K;
  } else if (ftype == kIQ3_XXS) {
    type = t.gqa >= 4 ? T::kQ4_K : t.importance ? T::kIQ3_XXS : T::kIQ3_S;
  } else if (ftype == kIQ3_M) {
    type = T::kQ4_K;
  } else if (ftype == kQ3_K_M) {
    type = t.layer < 2 ? T::kQ5_K : T::kQ4_K;
  } else if (ftype == kQ3_K_L) {
    type = T::kQ5_K;
  } else if (OneOf(ftype, {kIQ4_NL, kIQ4_XS}) && t.gqa >= 4) {
    type = T::kQ5_K;
  } else if (OneOf(ftype, {kQ4_K_M, kQ5_K_M}) && t.more_bits()) {
    type = T::kQ6_K;
  } else if (ftype == kQ4_K_S && t.layer < 4) {
    type = T::kQ5_K;
  }
  if (t.seventy_billion && (type == T::kQ3_K || type == T::kQ4_K)) type = T::kQ5_K;
  return type;
}

GgmlType DownType(uint32_t ftype, GgmlType base, const Place& t) {
  switch (ftype) {
    case kQ2_K:
      return T::kQ3_K;
    case kQ2_K_S:
      return t.first_eighth() ? T::kQ4_K : base;
    case kIQ3_XXS:
      return t.importance ? base : t.first_eighth() ? T::kQ4_K : T::kQ3_K;
    case kQ3_K_M:
      return t.layer < t.layers / 16 ? T::kQ5_K : T::kQ4_K;
    case kIQ3_M:
      return t.first_eighth() ? T::kQ4_K : base;
    case kQ3_K_L:
      return T::kQ5_K;
    case kQ4_K_M:
    case kQ5_K_M:
      return t.more_bits() ? T::kQ6_K : base;
    case kIQ4_NL:
    case kIQ4_XS:
      return t.first_eighth() && !t.importance ? T::kQ5_K : base;
    case kQ4_K_S:
      return t.first_eighth() ? T::kQ5_K : base;
    case kQ4_0:
      return t.first_eighth() && t.importance ? T::kQ4_1 : base;
    case kQ5_0:
      return t.first_eighth() && t.importance ? T::kQ5_1 : base;
    default:
      return base;
  }
}

GgmlType AttentionOutputType(uint32_t ftype, GgmlType base) {
  switch (ftype) {
    case kQ2_K:
      return T::kQ3_K;
    case kIQ3_XXS:
      return T::kIQ3_S;
    case kQ3_K_M:
    case kIQ3_M:
      return T::kQ4_K;
    case kQ3_K_L:
      return T::kQ5_K;
    default:
      return base;
  }
}

GgmlType FusedAttentionType(uint32_t ftype, GgmlType base) {
  if (OneOf(ftype, {kQ3_K_M, kQ3_K_L, kIQ3_M})) return T::kQ4_K;
  return ftype == kQ4_K_M ? T::kQ5_K : ftype == kQ5_K_M ? T::kQ6_K : base;
}

// The mixture's type of the matrix `kind` ("attn_v", ...) of a block.
GgmlType BlockTensorType(uint32_t ftype, GgmlType base, absl::string_view kind, const Place& t) {
  if (IsVeryLowBit(ftype)) return VeryLowBitType(ftype, base, kind, t);
  if (kind == "attn_v") return ValueType(ftype, base, t);
  if (kind == "ffn_down") return DownType(ftype, base, t);
  if (kind == "attn_output") return AttentionOutputType(ftype, base);
  if (kind == "attn_qkv") return FusedAttentionType(ftype, base);
  if (kind == "attn_q" || kind == "attn_k") {
    return ftype == kIQ3_XS ? T::kIQ3_XXS : ftype == kIQ3_XXS ? T::kIQ2_S : base;
  }
  if ((kind == "ffn_gate" || kind == "ffn_up") && ftype == kIQ3_XS && !t.first_eighth() &&
      t.layer < 7 * t.layers / 8) {
    return T::kIQ3_XXS;
  }
  return base;
}

// A type whose blocks tile rows of `cols` elements.
GgmlType Fitting(GgmlType type, int64_t cols) {
  const auto fits = [cols](GgmlType t) {
    return cols % FindGgmlType(static_cast<uint32_t>(t))->block_elements == 0;
  };
  if (fits(type)) return type;
  switch (type) {
    case T::kQ4_K:
      type = T::kQ5_0;
      break;
    case T::kQ5_K:
      type = T::kQ5_1;
      break;
    case T::kQ6_K:
      type = T::kQ8_0;
      break;
    case T::kQ2_K:
    case T::kQ3_K:
    case T::kTQ1_0:
    case T::kTQ2_0:
    case T::kQ1_0:
    case T::kQ2_0:
    case T::kNVFP4:
      type = T::kQ4_0;
      break;
    default:
      type = T::kIQ4_NL;
      break;
  }
  return fits(type) ? type : T::kF16;
}

// "blk.12.attn_v.weight" -> 12 and "attn_v"; -1 outside the blocks.
int SplitBlockName(absl::string_view name, absl::string_view* kind) {
  *kind = name.substr(0, name.rfind('.'));
  if (!absl::ConsumePrefix(kind, "blk.")) return -1;
  const size_t dot = kind->find('.');
  int layer;
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(kind->substr(0, dot), &layer)) return -1;
  kind->remove_prefix(dot + 1);
  return layer;
}

// Matrices that llama-quantize leaves alone and the converter writes as F32.
bool IsAlwaysF32(absl::string_view name, const Shape& shape) {
  return shape.size() < 2 || !absl::EndsWith(name, "weight") ||
         absl::EndsWith(name, "_norm.weight") || absl::StrContains(name, "ffn_gate_inp") ||
         name == "position_embd.weight" || name == "token_types.weight" || name == kRopeFrequencies;
}

}  // namespace

absl::StatusOr<GgufTypePolicy> GgufTypePolicy::ForFileType(absl::string_view file_type, bool pure) {
  const std::string upper = absl::AsciiStrToUpper(file_type.substr(0, 200));
  const absl::string_view name = WithoutAlias(upper);
  for (const FileTypeRow& row : kFileTypes) {
    if (row.name != name) continue;
    GgufTypePolicy policy;
    policy.name_ = std::string(row.name);
    policy.file_type_ = row.number;
    policy.base_ = pure && row.number == kMXFP4 ? T::kMXFP4 : row.base;
    policy.pure_ = pure;
    return policy;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown GGUF file type \"", absl::Utf8SafeCEscape(file_type.substr(0, 200)),
                   "\"; known: ", absl::StrJoin(KnownFileTypes(), ", ")));
}

GgmlType GgufTypePolicy::TypeFor(const ModelConfig& config, absl::string_view gguf_name,
                                 const Shape& shape, bool has_importance) const {
  if (IsAlwaysF32(gguf_name, shape)) return T::kF32;
  const int64_t cols = shape.back();
  const bool is_embedding = gguf_name == "token_embd.weight";
  // A tied table, and an encoder's, is treated as the output matrix.
  const bool is_output = gguf_name == "output.weight" ||
                         (is_embedding && (config.tie_word_embeddings || config.is_encoder()));
  if (is_embedding && token_embedding_type_) return Fitting(*token_embedding_type_, cols);
  // A tied table takes the output's type only as part of a mixture.
  const bool in_mixture = !pure_ && !IsPlain(base_);
  if (is_output && output_tensor_type_ && (!is_embedding || in_mixture)) {
    return Fitting(*output_tensor_type_, cols);
  }
  if (!in_mixture) return Fitting(base_, cols);
  if (is_output) return Fitting(OutputType(file_type_, base_, cols), cols);
  if (is_embedding) return Fitting(EmbeddingType(file_type_, base_), cols);

  absl::string_view kind;
  Place tensor;
  tensor.layer = SplitBlockName(gguf_name, &kind);
  tensor.layers = static_cast<int>(config.num_hidden_layers);
  tensor.cols = cols;
  const int64_t kv_heads = std::max<int64_t>(1, config.num_key_value_heads);
  tensor.gqa = config.num_attention_heads / kv_heads;
  tensor.importance = has_importance;
  tensor.seventy_billion =
      config.num_hidden_layers == 80 && config.num_attention_heads != config.num_key_value_heads;
  return Fitting(BlockTensorType(file_type_, base_, kind, tensor), cols);
}

std::vector<std::string> GgufTypePolicy::KnownFileTypes() {
  std::vector<std::string> names;
  for (const FileTypeRow& row : kFileTypes) names.emplace_back(row.name);
  return names;
}

bool GgufTypePolicy::NeedsImportance(absl::string_view gguf_name, GgmlType type) const {
  const bool is_table = gguf_name == "token_embd.weight" || gguf_name == "output.weight";
  switch (type) {
    case T::kIQ2_XXS:
    case T::kIQ2_XS:
    case T::kIQ1_S:
      return true;
    case T::kIQ3_XXS:
    case T::kIQ2_S:
    case T::kIQ1_M:
      return !is_table;
    case T::kQ2_K:
      return file_type_ == kQ2_K_S && !is_table;
    default:
      return false;
  }
}

}  // namespace quantd
