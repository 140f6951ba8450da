// tokenizer.json from anybody: parse, build, encode, decode, write, parse again. Nothing may crash,
// hang or leave the listed status codes.
#include <cstdlib>
#include <iostream>
#include <string>

#include "formats/huggingface/gguf_vocabulary.h"
#include "formats/huggingface/tokenizer_json.h"
#include "models/tokenizers/tokenizer.h"

namespace {

void Check(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kUnknown) {
    std::cerr << status << "\n";
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  auto spec = quantd::ParseTokenizerJson(text);
  Check(spec.status());
  if (!spec.ok()) return 0;
  Check(quantd::ApplyTokenizerConfigJson(text, &*spec));
  const auto again = quantd::ParseTokenizerJson(quantd::WriteTokenizerJson(*spec));
  if (!again.ok()) std::abort();
  Check(quantd::GgufVocabularyFromSpec(*spec, 0).status());
  const auto tokenizer = quantd::Tokenizer::Create(*spec);
  Check(tokenizer.status());
  if (!tokenizer.ok()) return 0;
  for (const char* sample :
       {"", "Hello  w\u00f6rld 123!\r\n", " aaaaaaaaaaaaaaaaaaaa<s>\u4e2d\u0301 ab",
        "[CLS] don't \U0001f600\u200d \t x"}) {
    const auto ids = (*tokenizer)->Encode(sample);
    Check(ids.status());
    if (ids.ok()) Check((*tokenizer)->Decode(*ids).status());
  }
  return 0;
}
