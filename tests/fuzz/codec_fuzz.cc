// quantization_config from anybody, over stored tensors from anybody: parse, find the matrix,
// decode, check, dequantize, encode again. Nothing may crash, allocate by a number it read, or
// leave the listed status codes.
//
// Input, parts separated by NUL: the quantization_config | one line per tensor,
// "weight_packed I32 96,32" or with its content "weight.quant_state U8 =text" | bytes that the
// other tensors repeat.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "quantizers/codecs/codec.h"

namespace {

using quantd::Tensor;

constexpr int64_t kMaxBytes = 1 << 16;  // of one tensor

void Check(const absl::Status& status) {
  if (absl::IsInternal(status) || absl::IsUnknown(status)) __builtin_trap();
}

class TextModule final : public quantd::ModuleTensors {
 public:
  TextModule(absl::string_view lines, absl::string_view content) {
    for (const absl::string_view line : absl::StrSplit(lines, '\n')) Add(line, content);
  }

  const std::string& module() const override { return module_; }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  bool Has(absl::string_view name) const override { return tensors_.contains(std::string(name)); }
  absl::StatusOr<quantd::TensorView> Describe(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const Tensor tensor, Read(name));
    return quantd::TensorView{tensor.dtype, tensor.shape, {}};
  }
  absl::StatusOr<Tensor> Read(absl::string_view name) const override {
    const auto found = tensors_.find(std::string(name));
    if (found == tensors_.end()) return absl::NotFoundError(name);
    return found->second;
  }

 private:
  void Add(absl::string_view line, absl::string_view content) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::MaxSplits(' ', 2));
    if (words.size() != 3 || tensors_.size() == 32) return;
    const auto dtype = quantd::DTypeFromSafetensors(words[1]);
    if (!dtype) return;
    Tensor tensor{*dtype, {}, {}};
    int64_t bytes = quantd::SizeOf(*dtype);
    if (!words[2].empty() && words[2][0] == '=') {
      content = words[2].substr(1);
      tensor.shape = {static_cast<int64_t>(content.size()) / bytes};
      bytes *= tensor.shape[0];
    } else {
      for (const absl::string_view text : absl::StrSplit(words[2], ',', absl::SkipEmpty())) {
        int64_t dim = 0;
        if (!absl::SimpleAtoi(text, &dim) || dim < 0 || dim > kMaxBytes) return;
        tensor.shape.push_back(dim);
        bytes *= dim;
        if (bytes > kMaxBytes || tensor.shape.size() > 8) return;
      }
    }
    tensor.bytes.resize(bytes);
    for (int64_t i = 0; i < bytes && !content.empty(); ++i) {
      tensor.bytes[i] = static_cast<std::byte>(content[i % content.size()]);
    }
    tensors_.emplace(words[0], std::move(tensor));
  }

  std::string module_ = "model.layers.0.self_attn.q_proj";
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('\0', 2));
  quantd::ModelConfig config;
  config.dtype = quantd::DType::kBF16;
  config.quantization_config = std::string(parts[0]);
  const auto codec = quantd::CodecFor(config);
  Check(codec.status());
  if (!codec.ok() || parts.size() < 2) return 0;
  const TextModule tensors(parts[1], parts.size() < 3 ? "\x3c" : parts[2]);
  if (!(*codec)->IsQuantized(tensors)) return 0;
  (void)(*codec)->WeightTensors(tensors);
  const auto shape = (*codec)->MatrixShape(tensors);
  Check(shape.status());
  const auto weight = (*codec)->Decode(tensors);
  Check(weight.status());
  if (!weight.ok()) return 0;
  if (!shape.ok() || *shape != quantd::Shape{weight->rows, weight->cols}) __builtin_trap();
  const absl::Status valid = quantd::Validate(*weight);
  Check(valid);
  if (!valid.ok()) return 0;
  (void)quantd::Dequantize(*weight);
  Check((*codec)->Encode(*weight).status());
  return 0;
}
