#include <algorithm>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "formats/huggingface/gguf_pre_tokenizers.h"
#include "formats/huggingface/gguf_vocabulary.h"

namespace quantd {
namespace {

using ModelKind = TokenizationModelSpec::Kind;

constexpr char kSpace[] = "\u2581";

bool UsesByteAlphabet(const TokenizerSpec& spec) {
  return std::any_of(spec.pre_tokenizer.begin(), spec.pre_tokenizer.end(), [](const auto& step) {
    return step.kind == PreTokenizerStep::Kind::kByteLevel;
  });
}

// Tokens by id, holes filled, with the types that the added tokens give.
absl::Status FillTokens(const TokenizerSpec& spec, int64_t rows, GgufVocabulary* out) {
  int64_t count = rows;
  const auto widen = [&](int32_t id) -> absl::Status {
    if (rows > 0 && id >= rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: id ", id, " is past the ", rows, " rows of the embedding"));
    }
    count = std::max<int64_t>(count, id + int64_t{1});
    return absl::OkStatus();
  };
  for (const auto& entry : spec.model.vocabulary) RETURN_IF_ERROR(widen(entry.id));
  for (const auto& token : spec.added_tokens) RETURN_IF_ERROR(widen(token.id));
  out->tokens.resize(count);
  out->token_types.assign(count, static_cast<int32_t>(GgufTokenType::kUnused));
  for (int64_t id = 0; id < count; ++id) out->tokens[id] = absl::StrCat("[PAD", id, "]");
  for (const auto& entry : spec.model.vocabulary) {
    out->tokens[entry.id] = entry.token;
    out->token_types[entry.id] = static_cast<int32_t>(GgufTokenType::kNormal);
  }
  for (const auto& token : spec.added_tokens) {
    out->tokens[token.id] = token.content;
    out->token_types[token.id] =
        static_cast<int32_t>(token.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  }
  return absl::OkStatus();
}

absl::Status ExportByteLevel(const TokenizerSpec& spec, GgufVocabulary* out) {
  out->model = "gpt2";
  out->pre = GgufPreTokenizerName(spec.pre_tokenizer, spec.model.ignore_merges);
  if (out->pre.empty()) {
    return absl::UnimplementedError(
        "tokenizer: pre_tokenizer: GGUF has no name for this way of splitting; keep the "
        "checkpoint in Hugging Face's form");
  }
  out->merges.reserve(spec.model.merges.size());
  for (const auto& [left, right] : spec.model.merges) {
    out->merges.push_back(absl::StrCat(left, " ", right));
  }
  return absl::OkStatus();
}

// Scores that give back the ranks of the merges: 0, -1, ... by first appearance, then the pieces
// that no merge makes, by id.
void ScoresFromMerges(const TokenizerSpec& spec, GgufVocabulary* out) {
  absl::flat_hash_map<absl::string_view, size_t> ids;
  for (const auto& entry : spec.model.vocabulary) ids.emplace(entry.token, entry.id);
  std::vector<bool> scored(out->tokens.size(), false);
  float next = 0;
  std::string merged;
  for (const auto& [left, right] : spec.model.merges) {
    merged = left + right;
    const auto it = ids.find(merged);
    if (it == ids.end() || scored[it->second]) continue;
    scored[it->second] = true;
    out->scores[it->second] = next--;
  }
  for (size_t id = 0; id < out->tokens.size(); ++id) {
    if (!scored[id] && out->token_types[id] == static_cast<int32_t>(GgufTokenType::kNormal)) {
      out->scores[id] = next--;
    }
  }
}

absl::Status ExportSentencePiece(const TokenizerSpec& spec, GgufVocabulary* out) {
  out->model = "llama";
  out->pre = "default";
  out->scores.assign(out->tokens.size(), 0);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string piece = absl::StrCat("<0x", absl::Hex(byte, absl::kZeroPad2), ">");
    for (const auto& entry : spec.model.vocabulary) {
      if (absl::EqualsIgnoreCase(entry.token, piece)) {
        out->token_types[entry.id] = static_cast<int32_t>(GgufTokenType::kByte);
        break;
      }
    }
  }
  const bool has_scores =
      std::any_of(spec.model.vocabulary.begin(), spec.model.vocabulary.end(),
                  [](const VocabularyEntry& entry) { return entry.score != 0; });
  for (const auto& entry : spec.model.vocabulary) {
    if (has_scores) out->scores[entry.id] = entry.score;
    if (spec.model.unk_token == entry.token) {
      out->token_types[entry.id] = static_cast<int32_t>(GgufTokenType::kUnknown);
    }
  }
  if (!has_scores) ScoresFromMerges(spec, out);
  bool prefix = false;
  for (const auto& step : spec.normalizer) {
    prefix = prefix || (step.kind == NormalizerStep::Kind::kPrepend && step.content == kSpace);
  }
  for (const auto& step : spec.pre_tokenizer) {
    prefix = prefix || (step.kind == PreTokenizerStep::Kind::kMetaspace &&
                        step.prepend_scheme != PrependScheme::kNever);
  }
  if (!prefix) out->add_space_prefix = false;
  return absl::OkStatus();
}

void ExportWordPiece(const TokenizerSpec& spec, GgufVocabulary* out) {
  out->model = "bert";
  out->pre = "default";
  const std::string& prefix = spec.model.continuing_subword_prefix;
  for (size_t id = 0; id < out->tokens.size(); ++id) {
    std::string& token = out->tokens[id];
    if (out->token_types[id] != static_cast<int32_t>(GgufTokenType::kNormal)) continue;
    if (!prefix.empty() && absl::StartsWith(token, prefix)) {
      token.erase(0, prefix.size());
    } else {
      token.insert(0, kSpace);
    }
  }
}

// The ids that the post-processor puts in front of and behind a text.
void FindFrame(const TokenizerSpec& spec, std::optional<int32_t>* front,
               std::optional<int32_t>* back) {
  for (const auto& step : spec.post_processor) {
    if (step.kind == PostProcessorStep::Kind::kBert ||
        step.kind == PostProcessorStep::Kind::kRoberta) {
      *front = step.cls.second;
      *back = step.sep.second;
    }
    bool behind = false;
    for (const TemplatePiece& piece : step.single) {
      if (piece.kind == TemplatePiece::Kind::kSequenceA) {
        behind = true;
      } else if (!piece.ids.empty()) {
        (behind ? *back : *front) = piece.ids[0];
      }
    }
  }
}

std::optional<int64_t> Wide(std::optional<int32_t> id) {
  return id ? std::optional<int64_t>(*id) : std::nullopt;
}

}  // namespace

absl::StatusOr<GgufVocabulary> GgufVocabularyFromSpec(const TokenizerSpec& spec, int64_t rows) {
  GgufVocabulary out;
  RETURN_IF_ERROR(FillTokens(spec, rows, &out));
  std::optional<int32_t> front, back;
  FindFrame(spec, &front, &back);
  if (spec.model.kind == ModelKind::kBpe && UsesByteAlphabet(spec)) {
    RETURN_IF_ERROR(ExportByteLevel(spec, &out));
  } else if (spec.model.kind == ModelKind::kBpe && spec.model.byte_fallback) {
    RETURN_IF_ERROR(ExportSentencePiece(spec, &out));
  } else if (spec.model.kind == ModelKind::kWordPiece) {
    ExportWordPiece(spec, &out);
    out.cls_id = Wide(front);
    out.sep_id = Wide(back);
  } else {
    return absl::UnimplementedError(
        "tokenizer: model: GGUF can hold byte-level BPE, SentencePiece-style BPE and WordPiece");
  }
  out.bos_id = Wide(spec.bos_id ? spec.bos_id : front);
  out.eos_id = Wide(spec.eos_id ? spec.eos_id : back);
  out.unk_id = Wide(spec.unk_id);
  if (!out.unk_id && spec.model.unk_token) {
    for (const auto& entry : spec.model.vocabulary) {
      if (entry.token == *spec.model.unk_token) out.unk_id = entry.id;
    }
  }
  out.pad_id = Wide(spec.pad_id);
  out.add_bos = front.has_value();
  out.add_eos = back.has_value();
  out.chat_template = spec.chat_template;
  return out;
}

}  // namespace quantd
