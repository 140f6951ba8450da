// Tokenizes for the interoperability tests.
//
//   quantd_tokenize ids FILE [plain]  each input line, the hex of a UTF-8 text, gives one line: the
//                                     ids, a tab, the hex of their decoded bytes. With "plain" no
//                                     special token is added or recognized.
//   quantd_tokenize json FILE         prints the tokenizer.json that we write
//   quantd_tokenize config FILE       prints the tokenizer_config.json that we write
//   quantd_tokenize gguf FILE         reads it, turns it into GGUF keys and prints those
//
// FILE is a tokenizer.json, or GGUF keys as lines of text: "model gpt2", "pre smollm", "bos 1",
// "eos 2", "unk 0", "pad 2", "add_bos 0", "add_eos 0", "add_space_prefix 0", and for each token and
// merge "token HEX TYPE SCORE" and "merge HEX".
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/status.h"
#include "formats/huggingface/gguf_vocabulary.h"
#include "formats/huggingface/tokenizer_json.h"
#include "models/tokenizers/tokenizer.h"

namespace quantd {
namespace {

GgufVocabulary ReadGgufLines(std::istream& in) {
  GgufVocabulary vocabulary;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string key, text;
    fields >> key >> text;
    const auto number = [&] { return std::stoll(text); };
    if (key == "token") {
      int32_t type = 1;
      std::string score = "0";
      fields >> type >> score;
      vocabulary.tokens.push_back(absl::HexStringToBytes(text == "-" ? "" : text));
      vocabulary.token_types.push_back(type);
      vocabulary.scores.push_back(std::stof(score));
    } else if (key == "merge") {
      vocabulary.merges.push_back(absl::HexStringToBytes(text));
    } else if (key == "model") {
      vocabulary.model = text;
    } else if (key == "pre") {
      vocabulary.pre = text;
    } else if (key == "bos") {
      vocabulary.bos_id = number();
    } else if (key == "eos") {
      vocabulary.eos_id = number();
    } else if (key == "unk") {
      vocabulary.unk_id = number();
    } else if (key == "pad") {
      vocabulary.pad_id = number();
    } else if (key == "add_bos") {
      vocabulary.add_bos = number() != 0;
    } else if (key == "add_eos") {
      vocabulary.add_eos = number() != 0;
    } else if (key == "add_space_prefix") {
      vocabulary.add_space_prefix = number() != 0;
    } else if (key == "chat_template") {
      vocabulary.chat_template = absl::HexStringToBytes(text);
    }
  }
  return vocabulary;
}

void PrintGgufLines(const GgufVocabulary& vocabulary) {
  std::cout << "model " << vocabulary.model << "\npre " << vocabulary.pre << "\n";
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    std::cout << "token " << absl::BytesToHexString(vocabulary.tokens[i]) << " "
              << vocabulary.token_types[i] << " "
              << (vocabulary.scores.empty() ? 0 : vocabulary.scores[i]) << "\n";
  }
  for (const std::string& merge : vocabulary.merges) {
    std::cout << "merge " << absl::BytesToHexString(merge) << "\n";
  }
}

absl::StatusOr<TokenizerSpec> ReadSpec(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (file.peek() != '{') return TokenizerSpecFromGguf(ReadGgufLines(file));
  std::stringstream content;
  content << file.rdbuf();
  return ParseTokenizerJson(content.str());
}

absl::Status PrintIds(const TokenizerSpec& spec, bool plain) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(spec));
  EncodeOptions options;
  options.add_special_tokens = options.parse_special = !plain;
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto ids = tokenizer->Encode(absl::HexStringToBytes(line), options);
    if (!ids.ok()) {
      std::cout << "error " << ids.status().message() << "\n";
      continue;
    }
    ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(*ids));
    std::cout << absl::StrJoin(*ids, " ") << "\t" << absl::BytesToHexString(text) << "\n";
  }
  return absl::OkStatus();
}

absl::Status Run(const std::string& mode, const std::string& path, bool plain) {
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadSpec(path));
  if (mode == "ids") return PrintIds(spec, plain);
  if (mode == "json") {
    std::cout << WriteTokenizerJson(spec);
  } else if (mode == "config") {
    std::cout << WriteTokenizerConfigJson(spec);
  } else if (mode == "gguf") {
    ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, GgufVocabularyFromSpec(spec, 0));
    PrintGgufLines(vocabulary);
  } else {
    return absl::InvalidArgumentError(absl::StrCat("unknown mode ", mode));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const absl::Status status = quantd::Run(argv[1], argv[2], argc > 3);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
