// A tokenizer as plain data: what tokenizer.json (PyPI `tokenizers` 0.23 schema, version "1.0"),
// tokenizer_config.json and the tokenizer.ggml.* keys of GGUF say, with nothing interpreted.
// models/tokenizers turns it into something that runs.
#ifndef QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_SPEC_H_
#define QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quantd {

// No token of a real vocabulary is longer; longer ones are refused.
inline constexpr size_t kMaxTokenBytes = 2048;

struct VocabularyEntry {
  std::string token;
  int32_t id = 0;
  float score = 0;  // log-probability; Unigram only
};

// A pattern of Split and Replace: a literal string, or a regular expression in Oniguruma's syntax.
struct TextPattern {
  bool is_regex = false;
  std::string text;
};

struct AddedTokenSpec {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
};

// One step of a normalizer; a Sequence becomes a list of steps.
struct NormalizerStep {
  enum class Kind {
    kNfc,
    kNfd,
    kNfkc,
    kNfkd,
    kLowercase,
    kStrip,
    kStripAccents,
    kReplace,
    kPrepend,
    kBert,
    kByteLevel,
  };
  Kind kind = Kind::kNfc;
  bool strip_left = true;             // kStrip
  bool strip_right = true;            // kStrip
  TextPattern pattern;                // kReplace
  std::string content;                // kReplace, kPrepend
  bool clean_text = true;             // kBert
  bool handle_chinese_chars = true;   // kBert
  bool lowercase = true;              // kBert
  std::optional<bool> strip_accents;  // kBert; unset follows `lowercase`
};

// What happens to the text that a pattern matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// When Metaspace puts its replacement in front of a text.
enum class PrependScheme { kAlways, kFirst, kNever };

struct PreTokenizerStep {
  enum class Kind {
    kByteLevel,
    kSplit,
    kDigits,
    kPunctuation,
    kWhitespace,
    kWhitespaceSplit,
    kBert,
    kMetaspace,
    kCharDelimiterSplit,
  };
  Kind kind = Kind::kByteLevel;
  bool add_prefix_space = false;                      // kByteLevel
  bool use_regex = true;                              // kByteLevel
  bool trim_offsets = true;                           // kByteLevel; carried, no effect on ids
  TextPattern pattern;                                // kSplit
  SplitBehavior behavior = SplitBehavior::kIsolated;  // kSplit, kPunctuation
  bool invert = false;                                // kSplit
  bool individual_digits = false;                     // kDigits
  std::string replacement;                            // kMetaspace, kCharDelimiterSplit: one char
  PrependScheme prepend_scheme = PrependScheme::kAlways;  // kMetaspace
  bool split = true;                                      // kMetaspace
};

// One element of a template: the ids of a special token, or the text's own ids (A or B).
struct TemplatePiece {
  enum class Kind { kSpecial, kSequenceA, kSequenceB };
  Kind kind = Kind::kSpecial;
  std::string token;         // kSpecial: key of special_tokens
  std::vector<int32_t> ids;  // kSpecial
  int32_t type_id = 0;
};

struct PostProcessorStep {
  enum class Kind { kTemplate, kBert, kRoberta, kByteLevel };
  Kind kind = Kind::kTemplate;
  std::vector<TemplatePiece> single;    // kTemplate
  std::vector<TemplatePiece> pair;      // kTemplate
  std::pair<std::string, int32_t> cls;  // kBert, kRoberta
  std::pair<std::string, int32_t> sep;  // kBert, kRoberta
  bool trim_offsets = true;             // kRoberta, kByteLevel
  bool add_prefix_space = true;         // kRoberta, kByteLevel
  bool use_regex = true;                // kByteLevel
};

struct DecoderStep {
  enum class Kind { kByteLevel, kWordPiece, kMetaspace, kByteFallback, kFuse, kStrip, kReplace };
  Kind kind = Kind::kByteLevel;
  std::string prefix;                                     // kWordPiece
  bool cleanup = true;                                    // kWordPiece
  std::string replacement;                                // kMetaspace
  PrependScheme prepend_scheme = PrependScheme::kAlways;  // kMetaspace
  bool split = true;                                      // kMetaspace; carried
  TextPattern pattern;                                    // kReplace
  std::string content;                                    // kReplace, kStrip (one char)
  uint32_t start = 0;                                     // kStrip: at most so many in front
  uint32_t stop = 0;                                      // kStrip: at most so many behind
};

struct TokenizationModelSpec {
  enum class Kind { kBpe, kWordPiece, kWordLevel, kUnigram };
  Kind kind = Kind::kBpe;
  std::vector<VocabularyEntry> vocabulary;                  // in file order, ids unique
  std::vector<std::pair<std::string, std::string>> merges;  // kBpe, by rank
  std::optional<std::string> unk_token;                     // all but kUnigram
  std::optional<int32_t> unk_id;                            // kUnigram
  std::string continuing_subword_prefix;                    // kBpe, kWordPiece
  std::string end_of_word_suffix;                           // kBpe
  bool fuse_unk = false;                                    // kBpe
  bool byte_fallback = false;                               // kBpe, kUnigram
  bool ignore_merges = false;                               // kBpe
  uint32_t max_input_chars_per_word = 100;                  // kWordPiece
};

struct TruncationSpec {
  uint32_t max_length = 0;
  uint32_t stride = 0;
  std::string strategy = "LongestFirst";
  std::string direction = "Right";
};

struct PaddingSpec {
  std::optional<uint32_t> fixed_length;  // unset: to the longest of the batch
  uint32_t pad_to_multiple_of = 0;       // 0: no
  std::string direction = "Right";
  int32_t pad_id = 0;
  int32_t pad_type_id = 0;
  std::string pad_token = "[PAD]";
};

struct TokenizerSpec {
  TokenizationModelSpec model;
  std::vector<AddedTokenSpec> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<PostProcessorStep> post_processor;
  std::vector<DecoderStep> decoder;
  // Data only: a server truncates and pads by the request, not by the file.
  std::optional<TruncationSpec> truncation;
  std::optional<PaddingSpec> padding;

  // From tokenizer_config.json or the GGUF keys.
  std::optional<int32_t> bos_id, eos_id, pad_id, unk_id;
  std::optional<bool> add_bos_token, add_eos_token;
  std::string chat_template;  // Jinja text; empty when there is none
  std::optional<uint64_t> model_max_length;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_SPEC_H_
