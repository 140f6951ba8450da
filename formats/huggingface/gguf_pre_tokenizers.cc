#include "formats/huggingface/gguf_pre_tokenizers.h"

#include <utility>

namespace quantd {
namespace {

using Kind = PreTokenizerStep::Kind;

// The regular expressions that the model families publish in their tokenizer.json.
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

PreTokenizerStep ByteLevel(bool use_regex) {
  PreTokenizerStep step;
  step.kind = Kind::kByteLevel;
  step.use_regex = use_regex;
  return step;
}

PreTokenizerStep Split(const char* regex) {
  PreTokenizerStep step;
  step.kind = Kind::kSplit;
  step.pattern = {true, regex};
  return step;
}

PreTokenizerStep IndividualDigits() {
  PreTokenizerStep step;
  step.kind = Kind::kDigits;
  step.individual_digits = true;
  return step;
}

GgufPreTokenizer Plain(std::vector<PreTokenizerStep> steps) {
  GgufPreTokenizer found;
  found.steps = std::move(steps);
  return found;
}

// What llama.cpp does with files that name no pre-tokenizer.
GgufPreTokenizer Default() {
  return Plain({Split(R"([\p{P}\$\+<=>\^~\|]+)"), Split(kGpt2), Split(R"(\p{N}+)"),
                Split(R"([0-9][0-9][0-9])"), ByteLevel(false)});
}

GgufPreTokenizer Build(absl::string_view family) {
  if (family == "gpt-2") return Plain({ByteLevel(true)});
  if (family == "smollm") return Plain({IndividualDigits(), ByteLevel(true)});
  if (family == "qwen2" || family == "stablelm2") {
    GgufPreTokenizer found = Plain({Split(kQwen2), ByteLevel(false)});
    if (family == "qwen2") found.normalizer.push_back({.kind = NormalizerStep::Kind::kNfc});
    return found;
  }
  if (family == "llama-bpe" || family == "dbrx") {
    GgufPreTokenizer found = Plain({Split(kLlama3), ByteLevel(false)});
    found.ignore_merges = found.add_bos = family == "llama-bpe";
    return found;
  }
  if (family == "tekken") {
    GgufPreTokenizer found = Plain({Split(kTekken), ByteLevel(false)});
    found.ignore_merges = found.add_bos = true;
    return found;
  }
  if (family == "gpt-4o") {
    GgufPreTokenizer found = Plain({Split(kGpt4o), ByteLevel(false)});
    found.ignore_merges = true;
    return found;
  }
  return Default();
}

struct Alias {
  absl::string_view name;
  absl::string_view family;
};

// Canonical names first, so that the reverse finds them.
constexpr Alias kAliases[] = {
    {"gpt-2", "gpt-2"},
    {"smollm", "smollm"},
    {"llama-bpe", "llama-bpe"},
    {"qwen2", "qwen2"},
    {"stablelm2", "stablelm2"},
    {"dbrx", "dbrx"},
    {"tekken", "tekken"},
    {"gpt-4o", "gpt-4o"},
    {"default", "default"},
    {"", "default"},
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
    {"phi-2", "gpt-2"},
    {"mpt", "gpt-2"},
    {"olmo", "gpt-2"},
    {"jais", "gpt-2"},
    {"trillion", "gpt-2"},
    {"granite-docling", "gpt-2"},
    {"starcoder", "smollm"},
    {"refact", "smollm"},
    {"command-r", "smollm"},
    {"codeshell", "smollm"},
    {"minerva-7b", "smollm"},
    {"smaug-bpe", "dbrx"},
    {"deepseek-r1-qwen", "qwen2"},
    {"hunyuan", "stablelm2"},
    {"llama4", "gpt-4o"},
};

bool SamePreTokenizer(const PreTokenizerStep& a, const PreTokenizerStep& b) {
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kByteLevel:
      return a.add_prefix_space == b.add_prefix_space && a.use_regex == b.use_regex;
    case Kind::kSplit:
      return a.pattern.is_regex == b.pattern.is_regex && a.pattern.text == b.pattern.text &&
             a.behavior == b.behavior && a.invert == b.invert;
    case Kind::kDigits:
      return a.individual_digits == b.individual_digits;
    default:
      return false;
  }
}

}  // namespace

std::optional<GgufPreTokenizer> FindGgufPreTokenizer(absl::string_view name) {
  for (const Alias& alias : kAliases) {
    if (alias.name == name) return Build(alias.family);
  }
  return std::nullopt;
}

std::string GgufPreTokenizerName(const std::vector<PreTokenizerStep>& steps, bool ignore_merges) {
  for (const Alias& alias : kAliases) {
    const GgufPreTokenizer candidate = Build(alias.family);
    if (candidate.steps.size() != steps.size() || candidate.ignore_merges != ignore_merges) {
      continue;
    }
    bool same = true;
    for (size_t i = 0; same && i < steps.size(); ++i) {
      same = SamePreTokenizer(candidate.steps[i], steps[i]);
    }
    if (same) return std::string(alias.name);
  }
  return "";
}

}  // namespace quantd
