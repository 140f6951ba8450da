#include <string>
#include <utility>

#include "formats/huggingface/tokenizer_json_components.h"

namespace quantd {
namespace {

using Json = nlohmann::ordered_json;

Json PatternJson(const TextPattern& pattern) {
  return Json{{pattern.is_regex ? "Regex" : "String", pattern.text}};
}

const char* BehaviorName(SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      return "Removed";
    case SplitBehavior::kIsolated:
      return "Isolated";
    case SplitBehavior::kMergedWithPrevious:
      return "MergedWithPrevious";
    case SplitBehavior::kMergedWithNext:
      return "MergedWithNext";
    case SplitBehavior::kContiguous:
      return "Contiguous";
  }
  return "Isolated";
}

const char* SchemeName(PrependScheme scheme) {
  switch (scheme) {
    case PrependScheme::kAlways:
      return "always";
    case PrependScheme::kFirst:
      return "first";
    case PrependScheme::kNever:
      return "never";
  }
  return "always";
}

Json StepJson(const NormalizerStep& step) {
  using Kind = NormalizerStep::Kind;
  switch (step.kind) {
    case Kind::kNfc:
      return {{"type", "NFC"}};
    case Kind::kNfd:
      return {{"type", "NFD"}};
    case Kind::kNfkc:
      return {{"type", "NFKC"}};
    case Kind::kNfkd:
      return {{"type", "NFKD"}};
    case Kind::kLowercase:
      return {{"type", "Lowercase"}};
    case Kind::kStripAccents:
      return {{"type", "StripAccents"}};
    case Kind::kByteLevel:
      return {{"type", "ByteLevel"}};
    case Kind::kStrip:
      return {
          {"type", "Strip"}, {"strip_left", step.strip_left}, {"strip_right", step.strip_right}};
    case Kind::kReplace:
      return {
          {"type", "Replace"}, {"pattern", PatternJson(step.pattern)}, {"content", step.content}};
    case Kind::kPrepend:
      return {{"type", "Prepend"}, {"prepend", step.content}};
    case Kind::kBert:
      break;
  }
  Json accents = nullptr;
  if (step.strip_accents) accents = *step.strip_accents;
  return {{"type", "BertNormalizer"},
          {"clean_text", step.clean_text},
          {"handle_chinese_chars", step.handle_chinese_chars},
          {"strip_accents", accents},
          {"lowercase", step.lowercase}};
}

Json StepJson(const PreTokenizerStep& step) {
  using Kind = PreTokenizerStep::Kind;
  switch (step.kind) {
    case Kind::kByteLevel:
      return {{"type", "ByteLevel"},
              {"add_prefix_space", step.add_prefix_space},
              {"trim_offsets", step.trim_offsets},
              {"use_regex", step.use_regex}};
    case Kind::kSplit:
      return {{"type", "Split"},
              {"pattern", PatternJson(step.pattern)},
              {"behavior", BehaviorName(step.behavior)},
              {"invert", step.invert}};
    case Kind::kDigits:
      return {{"type", "Digits"}, {"individual_digits", step.individual_digits}};
    case Kind::kPunctuation:
      return {{"type", "Punctuation"}, {"behavior", BehaviorName(step.behavior)}};
    case Kind::kWhitespace:
      return {{"type", "Whitespace"}};
    case Kind::kWhitespaceSplit:
      return {{"type", "WhitespaceSplit"}};
    case Kind::kBert:
      return {{"type", "BertPreTokenizer"}};
    case Kind::kCharDelimiterSplit:
      return {{"type", "CharDelimiterSplit"}, {"delimiter", step.replacement}};
    case Kind::kMetaspace:
      break;
  }
  return {{"type", "Metaspace"},
          {"replacement", step.replacement},
          {"prepend_scheme", SchemeName(step.prepend_scheme)},
          {"split", step.split}};
}

// Adds the pieces to a JSON array and what they use to special_tokens.
Json TemplateJson(const std::vector<TemplatePiece>& pieces, Json* special_tokens) {
  Json list = Json::array();
  for (const TemplatePiece& piece : pieces) {
    if (piece.kind == TemplatePiece::Kind::kSpecial) {
      list.push_back({{"SpecialToken", {{"id", piece.token}, {"type_id", piece.type_id}}}});
      Json tokens = Json::array();
      for (size_t i = 0; i < piece.ids.size(); ++i) tokens.push_back(piece.token);
      (*special_tokens)[piece.token] = {
          {"id", piece.token}, {"ids", piece.ids}, {"tokens", tokens}};
    } else {
      const bool first = piece.kind == TemplatePiece::Kind::kSequenceA;
      list.push_back({{"Sequence", {{"id", first ? "A" : "B"}, {"type_id", piece.type_id}}}});
    }
  }
  return list;
}

Json StepJson(const PostProcessorStep& step) {
  using Kind = PostProcessorStep::Kind;
  switch (step.kind) {
    case Kind::kTemplate: {
      Json special_tokens = Json::object();
      Json single = TemplateJson(step.single, &special_tokens);
      Json pair = TemplateJson(step.pair, &special_tokens);
      return {{"type", "TemplateProcessing"},
              {"single", std::move(single)},
              {"pair", std::move(pair)},
              {"special_tokens", std::move(special_tokens)}};
    }
    case Kind::kByteLevel:
      return {{"type", "ByteLevel"},
              {"add_prefix_space", step.add_prefix_space},
              {"trim_offsets", step.trim_offsets},
              {"use_regex", step.use_regex}};
    case Kind::kBert:
    case Kind::kRoberta:
      break;
  }
  const Json sep = Json::array({step.sep.first, step.sep.second});
  const Json cls = Json::array({step.cls.first, step.cls.second});
  if (step.kind == Kind::kBert) return {{"type", "BertProcessing"}, {"sep", sep}, {"cls", cls}};
  return {{"type", "RobertaProcessing"},
          {"sep", sep},
          {"cls", cls},
          {"trim_offsets", step.trim_offsets},
          {"add_prefix_space", step.add_prefix_space}};
}

Json StepJson(const DecoderStep& step) {
  using Kind = DecoderStep::Kind;
  switch (step.kind) {
    case Kind::kByteLevel:
      return {{"type", "ByteLevel"},
              {"add_prefix_space", true},
              {"trim_offsets", true},
              {"use_regex", true}};
    case Kind::kWordPiece:
      return {{"type", "WordPiece"}, {"prefix", step.prefix}, {"cleanup", step.cleanup}};
    case Kind::kMetaspace:
      return {{"type", "Metaspace"},
              {"replacement", step.replacement},
              {"prepend_scheme", SchemeName(step.prepend_scheme)},
              {"split", step.split}};
    case Kind::kByteFallback:
      return {{"type", "ByteFallback"}};
    case Kind::kFuse:
      return {{"type", "Fuse"}};
    case Kind::kStrip:
      return {
          {"type", "Strip"}, {"content", step.content}, {"start", step.start}, {"stop", step.stop}};
    case Kind::kReplace:
      break;
  }
  return {{"type", "Replace"}, {"pattern", PatternJson(step.pattern)}, {"content", step.content}};
}

template <typename Step>
Json StepsJson(const std::vector<Step>& steps, const char* list_name) {
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return StepJson(steps[0]);
  Json list = Json::array();
  for (const Step& step : steps) list.push_back(StepJson(step));
  return {{"type", "Sequence"}, {list_name, std::move(list)}};
}

}  // namespace

Json NormalizerJson(const std::vector<NormalizerStep>& steps) {
  return StepsJson(steps, "normalizers");
}

Json PreTokenizerJson(const std::vector<PreTokenizerStep>& steps) {
  return StepsJson(steps, "pretokenizers");
}

Json PostProcessorJson(const std::vector<PostProcessorStep>& steps) {
  return StepsJson(steps, "processors");
}

Json DecoderJson(const std::vector<DecoderStep>& steps) { return StepsJson(steps, "decoders"); }

}  // namespace quantd
