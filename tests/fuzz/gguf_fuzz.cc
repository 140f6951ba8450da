// Any bytes as a GGUF header; every tensor that is accepted lies inside the file, and its blocks
// decode or are refused.
#include <cstdint>

#include "formats/gguf/gguf.h"
#include "quantizers/codecs/gguf/blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The first byte says how much of the file is at hand.
  if (size == 0) return 0;
  const std::span file(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const auto part = file.first(data[0] == 0 ? file.size() : file.size() * data[0] / 256);
  const auto header = quantd::ParseGgufHeader(part, file.size());
  if (!header.ok()) {
    if (absl::IsInternal(header.status()) || absl::IsUnknown(header.status())) __builtin_trap();
    return 0;
  }
  for (const quantd::GgufTensorInfo& info : header->tensors) {
    const uint64_t begin = header->data_offset + info.offset;
    if (begin + info.bytes > file.size()) __builtin_trap();
    const auto weight =
        quantd::DecodeGgufBlocks(info.type, info.shape, file.subspan(begin, info.bytes));
    if (absl::IsInternal(weight.status()) || absl::IsUnknown(weight.status())) __builtin_trap();
    if (!weight.ok()) continue;
    if (const auto* blocks = std::get_if<quantd::QuantizedTensor>(&*weight)) {
      (void)quantd::EncodeGgufBlocks(info.type, *blocks);
      (void)quantd::Dequantize(*blocks);
    }
  }
  for (const auto& [key, value] : header->metadata.entries()) {
    (void)header->metadata.Integer(key);
    (void)header->metadata.Number(key);
    (void)header->metadata.Array(key, quantd::GgufValueType::kString);
  }
  return 0;
}
