// Text <-> token ids, equal token for token to PyPI `tokenizers` 0.23 given the same
// tokenizer.json.
//
// Encode: added tokens are cut out, the rest is normalized, split into words, each word segmented
// by the model, special tokens put around. Decode gives bytes: a token may end inside a character.
#ifndef QUANTD_MODELS_TOKENIZERS_TOKENIZER_H_
#define QUANTD_MODELS_TOKENIZERS_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

struct EncodeOptions {
  // Put the special tokens of the post-processor (or add_bos_token) around the text.
  bool add_special_tokens = true;
  // Take special tokens that stand in the text as what they are. False makes "<|im_end|>" from a
  // user plain text. Added tokens that are not special are always taken.
  bool parse_special = true;
};

// Immutable; safe for any number of threads. Memory: some 100 bytes for each token and merge.
class Tokenizer {
 public:
  // The longest text that Encode takes.
  static constexpr size_t kMaxTextBytes = size_t{16} << 20;

  // `embedding_rows` > 0 checks every id against the model's rows. INVALID_ARGUMENT for a spec that
  // contradicts itself or a malformed pattern; UNIMPLEMENTED for a pattern or decoder chain not
  // supported.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(const TokenizerSpec& spec,
                                                                 int64_t embedding_rows = 0);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT when `text` is not valid UTF-8 (naming the byte) or cannot be expressed;
  // RESOURCE_EXHAUSTED when it is longer than kMaxTextBytes or the tokenizer's patterns take too
  // long: half a second of processor time for each 64 KiB.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options = {}) const;

  // The bytes that `ids` stand for; ReplaceInvalidUtf8 (unicode.h) makes them text.
  // INVALID_ARGUMENT for an id that is not in the vocabulary.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special = true) const;

  // Ids are less than this (model vocabulary and added tokens; there may be holes).
  int32_t vocabulary_size() const;

  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> unk_id() const;
  const std::string& chat_template() const;  // empty when there is none

  // The id whose spelling in the vocabulary is `token`, e.g. "<|im_end|>".
  std::optional<int32_t> TokenToId(absl::string_view token) const;
  // The spelling; nothing for an id that is not in the vocabulary.
  std::optional<absl::string_view> IdToToken(int32_t id) const;
  // What the token adds to a text; `first` when it starts the text. Empty for an unknown id.
  std::string TokenBytes(int32_t id, bool first = false) const;
  bool IsSpecial(int32_t id) const;

 private:
  friend class StreamingDecoder;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

// Decodes ids as they come. Characters come out whole: bytes of one that is not complete wait for
// the next token. The pieces, joined, equal Decode of all the ids.
class StreamingDecoder {
 public:
  // `tokenizer` outlives this.
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that `id` completes; often empty. Bytes that can never become a character come out as
  // they are, so the result may be invalid UTF-8. An unknown id adds nothing.
  std::string Push(int32_t id);

  // The bytes that still wait, at the end of the stream.
  std::string Flush();

 private:
  std::string Release(bool all);

  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool first_ = true;
  size_t trimmed_ = 0;
  std::string waiting_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_TOKENIZER_H_
