#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/status.h"
#include "formats/huggingface/gguf_pre_tokenizers.h"
#include "formats/huggingface/gguf_vocabulary.h"
#include "formats/huggingface/tokenizer_json.h"
#include "formats/huggingface/tokenizer_json_document.h"
#include "formats/huggingface/utf8.h"

namespace quantd {
namespace {

constexpr char kSpace[] = "\u2581";  // the visible space of SentencePiece
// Longer pieces get no merges: SentencePiece makes none (its default limit is 16 characters).
constexpr size_t kMaxScoredPiece = 256;

absl::Status Bad(absl::string_view key, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.", key, ": ", reason));
}

GgufTokenType TypeOf(const GgufVocabulary& vocabulary, size_t i) {
  return vocabulary.token_types.empty() ? GgufTokenType::kNormal
                                        : static_cast<GgufTokenType>(vocabulary.token_types[i]);
}

absl::Status CheckArrays(const GgufVocabulary& vocabulary) {
  const size_t count = vocabulary.tokens.size();
  if (count == 0) return Bad("tokens", "empty");
  if (count > static_cast<size_t>(std::numeric_limits<int32_t>::max()) / 4) {
    return Bad("tokens", absl::StrCat(count, " tokens are too many"));
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != count) {
    return Bad("scores", absl::StrCat(vocabulary.scores.size(), " for ", count, " tokens"));
  }
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != count) {
    return Bad("token_type",
               absl::StrCat(vocabulary.token_types.size(), " for ", count, " tokens"));
  }
  for (const int32_t type : vocabulary.token_types) {
    if (type < 0 || type > 6) return Bad("token_type", absl::StrCat("unknown type ", type));
  }
  for (const float score : vocabulary.scores) {
    if (!std::isfinite(score)) return Bad("scores", "a score is not finite");
  }
  for (size_t i = 0; i < count; ++i) {
    const std::string& token = vocabulary.tokens[i];
    if (token.size() > kMaxTokenBytes) {
      return Bad("tokens", absl::StrCat("token ", i, " has ", token.size(), " bytes, the limit is ",
                                        kMaxTokenBytes));
    }
    if (!IsValidUtf8(token)) {
      return Bad("tokens", absl::StrCat("token ", i, " ", Quoted(token), " is not valid UTF-8"));
    }
  }
  return absl::OkStatus();
}

absl::Status SpecialId(const char* key, std::optional<int64_t> id, size_t count,
                       std::optional<int32_t>* out) {
  if (!id) return absl::OkStatus();
  if (*id < 0 || *id >= static_cast<int64_t>(count)) {
    return Bad(key, absl::StrCat(*id, " is past the ", count, " tokens"));
  }
  *out = static_cast<int32_t>(*id);
  return absl::OkStatus();
}

// Added tokens: what must be found in the text before anything is split.
void AddSpecialTokens(const GgufVocabulary& vocabulary, TokenizerSpec* spec) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const GgufTokenType type = TypeOf(vocabulary, i);
    const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
    if ((!special && type != GgufTokenType::kUserDefined) || vocabulary.tokens[i].empty()) continue;
    AddedTokenSpec token;
    token.content = vocabulary.tokens[i];
    token.id = static_cast<int32_t>(i);
    token.special = special;
    token.normalized = false;
    spec->added_tokens.push_back(std::move(token));
  }
}

absl::Status AddTemplate(bool bos, bool eos, TokenizerSpec* spec) {
  spec->add_bos_token = bos;
  spec->add_eos_token = eos;
  if (bos && !spec->bos_id) return Bad("bos_token_id", "missing, but add_bos_token is set");
  if (eos && !spec->eos_id) return Bad("eos_token_id", "missing, but add_eos_token is set");
  const auto piece = [&](int32_t id, int32_t type_id) {
    return TemplatePiece{
        TemplatePiece::Kind::kSpecial, spec->model.vocabulary[id].token, {id}, type_id};
  };
  PostProcessorStep step;
  for (const bool second : {false, true}) {
    auto* pieces = &step.pair;
    if (bos) pieces->push_back(piece(*spec->bos_id, second));
    pieces->push_back({second ? TemplatePiece::Kind::kSequenceB : TemplatePiece::Kind::kSequenceA,
                       second ? "B" : "A",
                       {},
                       second});
    if (eos) pieces->push_back(piece(*spec->eos_id, second));
    if (!second) step.single = step.pair;
  }
  if (bos || eos) spec->post_processor.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ImportByteLevel(const GgufVocabulary& vocabulary, TokenizerSpec* spec) {
  auto pre = FindGgufPreTokenizer(vocabulary.pre);
  if (!pre) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre: pre-tokenizer ",
                                                 Quoted(vocabulary.pre), " is not supported"));
  }
  spec->model.ignore_merges = pre->ignore_merges;
  spec->normalizer = std::move(pre->normalizer);
  spec->pre_tokenizer = std::move(pre->steps);
  spec->decoder.push_back({.kind = DecoderStep::Kind::kByteLevel});
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    // Tokens hold no space in this alphabet, but a merge may start with one in odd files: the
    // separator is the first space after the first byte.
    const std::string& merge = vocabulary.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      return Bad("merges", absl::StrCat("merge ", i, " ", Quoted(merge),
                                        " is not two tokens with a space between"));
    }
    spec->model.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return AddTemplate(vocabulary.add_bos.value_or(pre->add_bos), vocabulary.add_eos.value_or(false),
                     spec);
}

struct ScoredMerge {
  absl::string_view left, right;
  float score;
  size_t left_length, right_length;  // in characters
};

// Every way to make a piece of two pieces, best score first. The order is that of Transformers'
// generate_merges, so that both segment alike.
std::vector<std::pair<std::string, std::string>> MergesFromScores(
    const GgufVocabulary& vocabulary) {
  absl::flat_hash_map<absl::string_view, size_t> normal;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (TypeOf(vocabulary, i) == GgufTokenType::kNormal) normal.emplace(vocabulary.tokens[i], i);
  }
  std::vector<ScoredMerge> merges;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const absl::string_view piece = vocabulary.tokens[i];
    if (TypeOf(vocabulary, i) != GgufTokenType::kNormal || piece.size() > kMaxScoredPiece) continue;
    std::vector<std::pair<size_t, size_t>> ids;
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = normal.find(piece.substr(0, cut));
      if (left == normal.end()) continue;
      const auto right = normal.find(piece.substr(cut));
      if (right != normal.end()) ids.emplace_back(left->second, right->second);
    }
    std::sort(ids.begin(), ids.end());
    for (const auto& [left, right] : ids) {
      merges.push_back({vocabulary.tokens[left], vocabulary.tokens[right], vocabulary.scores[i],
                        Utf8Length(vocabulary.tokens[left]), Utf8Length(vocabulary.tokens[right])});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const ScoredMerge& a, const ScoredMerge& b) {
    if (a.score != b.score) return a.score > b.score;
    if (a.left_length != b.left_length) return a.left_length > b.left_length;
    return a.right_length > b.right_length;
  });
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(merges.size());
  for (const ScoredMerge& merge : merges) out.emplace_back(merge.left, merge.right);
  return out;
}

absl::Status ImportSentencePiece(const GgufVocabulary& vocabulary, TokenizerSpec* spec) {
  if (vocabulary.scores.empty()) return Bad("scores", "missing; model llama needs them");
  TokenizationModelSpec& model = spec->model;
  model.byte_fallback = true;
  model.fuse_unk = true;
  model.merges = MergesFromScores(vocabulary);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    model.vocabulary[i].score = vocabulary.scores[i];
    if (TypeOf(vocabulary, i) == GgufTokenType::kUnknown && !spec->unk_id) {
      spec->unk_id = static_cast<int32_t>(i);
    }
  }
  if (spec->unk_id) model.unk_token = vocabulary.tokens[*spec->unk_id];
  const bool prefix = vocabulary.add_space_prefix.value_or(true);
  if (prefix) {
    spec->normalizer.push_back({.kind = NormalizerStep::Kind::kPrepend, .content = kSpace});
  }
  spec->normalizer.push_back(
      {.kind = NormalizerStep::Kind::kReplace, .pattern = {false, " "}, .content = kSpace});
  spec->decoder.push_back(
      {.kind = DecoderStep::Kind::kReplace, .pattern = {false, kSpace}, .content = " "});
  spec->decoder.push_back({.kind = DecoderStep::Kind::kByteFallback});
  spec->decoder.push_back({.kind = DecoderStep::Kind::kFuse});
  if (prefix) {
    spec->decoder.push_back({.kind = DecoderStep::Kind::kStrip, .content = " ", .start = 1});
  }
  return AddTemplate(vocabulary.add_bos.value_or(true), vocabulary.add_eos.value_or(false), spec);
}

// GGUF marks the beginnings of words where BERT's vocab.txt marks continuations.
absl::Status ImportWordPiece(const GgufVocabulary& vocabulary, TokenizerSpec* spec) {
  TokenizationModelSpec& model = spec->model;
  model.kind = TokenizationModelSpec::Kind::kWordPiece;
  model.continuing_subword_prefix = "##";
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    std::string& token = model.vocabulary[i].token;
    const GgufTokenType type = TypeOf(vocabulary, i);
    if (absl::StartsWith(token, kSpace)) {
      token.erase(0, sizeof(kSpace) - 1);
    } else if (type == GgufTokenType::kNormal && !vocabulary.token_types.empty()) {
      token.insert(0, "##");
    }
  }
  if (!spec->unk_id) return Bad("unknown_token_id", "missing; model bert needs it");
  model.unk_token = model.vocabulary[*spec->unk_id].token;
  std::optional<int32_t> cls, sep;
  RETURN_IF_ERROR(SpecialId("cls_token_id", vocabulary.cls_id, vocabulary.tokens.size(), &cls));
  RETURN_IF_ERROR(
      SpecialId("seperator_token_id", vocabulary.sep_id, vocabulary.tokens.size(), &sep));
  if (!cls) cls = spec->bos_id;
  if (!sep) sep = spec->eos_id;
  if (!cls || !sep) return Bad("cls_token_id", "missing, or no seperator_token_id");
  NormalizerStep bert{.kind = NormalizerStep::Kind::kBert};
  spec->normalizer.push_back(bert);
  spec->pre_tokenizer.push_back({.kind = PreTokenizerStep::Kind::kBert});
  spec->decoder.push_back({.kind = DecoderStep::Kind::kWordPiece, .prefix = "##"});
  spec->bos_id = cls;
  spec->eos_id = sep;
  RETURN_IF_ERROR(AddTemplate(true, true, spec));
  std::vector<TemplatePiece>& pair = spec->post_processor.back().pair;
  pair.erase(pair.begin() + 3);  // BERT has one [CLS] only
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(const GgufVocabulary& vocabulary) {
  RETURN_IF_ERROR(CheckArrays(vocabulary));
  const size_t count = vocabulary.tokens.size();
  TokenizerSpec spec;
  RETURN_IF_ERROR(SpecialId("bos_token_id", vocabulary.bos_id, count, &spec.bos_id));
  RETURN_IF_ERROR(SpecialId("eos_token_id", vocabulary.eos_id, count, &spec.eos_id));
  RETURN_IF_ERROR(SpecialId("padding_token_id", vocabulary.pad_id, count, &spec.pad_id));
  RETURN_IF_ERROR(SpecialId("unknown_token_id", vocabulary.unk_id, count, &spec.unk_id));
  spec.chat_template = vocabulary.chat_template;
  spec.model.vocabulary.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    spec.model.vocabulary.push_back({vocabulary.tokens[i], static_cast<int32_t>(i), 0});
  }
  if (vocabulary.model == "gpt2") {
    RETURN_IF_ERROR(ImportByteLevel(vocabulary, &spec));
  } else if (vocabulary.model == "llama") {
    RETURN_IF_ERROR(ImportSentencePiece(vocabulary, &spec));
  } else if (vocabulary.model == "bert") {
    RETURN_IF_ERROR(ImportWordPiece(vocabulary, &spec));
  } else {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.model: ", Quoted(vocabulary.model),
                                                 " is not supported; gpt2, llama and bert are"));
  }
  AddSpecialTokens(vocabulary, &spec);
  RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

}  // namespace quantd
