// Pieces of GGUF files, byte by byte.
#ifndef QUANTD_TESTS_FORMATS_GGUF_BYTES_H_
#define QUANTD_TESTS_FORMATS_GGUF_BYTES_H_

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/test_data.h"

namespace quantd {

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
inline std::string U32(uint32_t value) { return Raw(value); }
inline std::string U64(uint64_t value) { return Raw(value); }
inline std::string Str(const std::string& text) { return U64(text.size()) + text; }

inline std::string Head(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
  return "GGUF" + U32(version) + U64(tensors) + U64(entries);
}
inline std::string Entry(const std::string& key, uint32_t type, const std::string& value) {
  return Str(key) + U32(type) + value;
}

// A whole model.
inline std::string ReadGolden() {
  std::ifstream stream(TestData("golden/gguf/model-q2_k/model.gguf"), std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace quantd

#endif  // QUANTD_TESTS_FORMATS_GGUF_BYTES_H_
