// Golden files of ggml 0.25.3 under tests/data/golden.
#ifndef QUANTD_TESTS_QUANTIZERS_GGUF_GOLDEN_H_
#define QUANTD_TESTS_QUANTIZERS_GGUF_GOLDEN_H_

#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/gguf/gguf.h"

namespace quantd {

std::vector<std::byte> ReadGoldenFile(const std::string& name);  // below tests/data/golden
std::map<std::string, Tensor> ReadGoldenTensors(const std::string& name);
std::vector<float> FloatsOf(const Tensor& tensor);

// Folder name of linear-* ("q4_k") and type of every block type.
struct GoldenType {
  const char* name;
  GgmlType type;
};
std::vector<GoldenType> AllGoldenTypes();

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_GGUF_GOLDEN_H_
