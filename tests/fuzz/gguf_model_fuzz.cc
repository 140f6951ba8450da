// Metadata and tensor shapes of a GGUF from anybody, past the container: the model and the
// tokenizer that they describe. Text, because a fuzzer changes it more easily than length-prefixed
// bytes.
//
// Input, one entry per line: "general.architecture s llama", types u (u32), i (i64), f (f32), b
// (bool), s (string), and S, I, F for arrays with elements separated by blanks;
// "blk.0.attn_q.weight t 12 64 32" is a tensor of ggml type 12 and the shape [64, 32].
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "models/tokenizers/tokenizer.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/codecs/gguf/tokenizer_keys.h"

namespace {

using quantd::GgufArray;
using quantd::GgufValue;
using quantd::GgufValueType;

void Check(const absl::Status& status) {
  if (absl::IsInternal(status) || absl::IsUnknown(status)) __builtin_trap();
}

int64_t IntegerOf(absl::string_view text) {
  int64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

double FloatOf(absl::string_view text) {
  double value = 0;
  return absl::SimpleAtod(text, &value) ? value : 0;
}

GgufArray ArrayOf(char type, absl::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(text, ' ', absl::SkipEmpty());
  GgufArray array;
  array.element_type = type == 'S'   ? GgufValueType::kString
                       : type == 'I' ? GgufValueType::kI32
                                     : GgufValueType::kF32;
  for (const std::string& word : words) {
    if (type == 'S') array.strings.push_back(word);
    if (type == 'I') array.integers.push_back(static_cast<int32_t>(IntegerOf(word)));
    if (type == 'F') array.floats.push_back(FloatOf(word));
  }
  return array;
}

void AddTensor(absl::string_view name, absl::string_view text, quantd::GgufHeader& header) {
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ', absl::SkipEmpty());
  if (words.empty() || words.size() > 5) return;
  quantd::GgufTensorInfo info{std::string(name),
                              static_cast<quantd::GgmlType>(IntegerOf(words[0]))};
  for (size_t i = 1; i < words.size(); ++i) info.shape.push_back(IntegerOf(words[i]));
  const auto bytes = quantd::GgufTensorBytes(info.type, info.shape);
  if (!bytes.ok()) return;
  info.bytes = *bytes;
  header.tensors.push_back(std::move(info));
}

quantd::GgufHeader HeaderOf(absl::string_view text) {
  quantd::GgufHeader header;
  absl::flat_hash_set<std::string> names;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::MaxSplits(' ', 2));
    if (words.size() != 3 || words[1].size() != 1 || !names.emplace(words[0]).second) continue;
    const absl::string_view name = words[0], value = words[2];
    switch (const char type = words[1][0]; type) {
      case 'u':
        header.metadata.SetU32(name, static_cast<uint32_t>(IntegerOf(value)));
        break;
      case 'i':
        header.metadata.Set(name, {GgufValueType::kI64, IntegerOf(value)});
        break;
      case 'f':
        header.metadata.SetF32(name, static_cast<float>(FloatOf(value)));
        break;
      case 'b':
        header.metadata.SetBool(name, value == "1");
        break;
      case 's':
        header.metadata.SetString(name, std::string(value));
        break;
      case 'S':
      case 'I':
      case 'F':
        header.metadata.Set(name, {GgufValueType::kArray, ArrayOf(type, value)});
        break;
      case 't':
        AddTensor(name, value, header);
        break;
    }
  }
  return header;
}

void UseTokenizer(const quantd::GgufMetadata& metadata) {
  const auto vocabulary = quantd::VocabularyFromGguf(metadata);
  Check(vocabulary.status());
  if (!vocabulary.ok()) return;
  const auto spec = quantd::TokenizerSpecFromGguf(*vocabulary);
  Check(spec.status());
  if (!spec.ok()) return;
  const auto tokenizer = quantd::Tokenizer::Create(*spec);
  Check(tokenizer.status());
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->Encode("Hello  w\u00f6rld 123!\n<s> a\u4e2d");
  Check(ids.status());
  if (ids.ok()) Check((*tokenizer)->Decode(*ids).status());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const quantd::GgufHeader header = HeaderOf({reinterpret_cast<const char*>(data), size});
  UseTokenizer(header.metadata);
  const auto config = quantd::ConfigFromGguf(header);
  Check(config.status());
  if (!config.ok()) return 0;
  if (!quantd::CheckModelConfig(*config).ok()) __builtin_trap();
  for (const quantd::GgufTensorInfo& tensor : header.tensors) {
    const auto name = quantd::HfNameFor(*config, tensor.name);
    if (name && quantd::GgufNameFor(*config, *name) != tensor.name) __builtin_trap();
  }
  const auto files = quantd::SideFilesFromGguf(header.metadata, *config);
  Check(files.status());
  if (files.ok()) {
    Check(quantd::MetadataForModel(*config, *files, "fuzz", 1).status());
  }
  return 0;
}
