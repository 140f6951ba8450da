// Any bytes as a safetensors file; every tensor that is accepted can be read.
#include <cstdint>

#include "formats/safetensors/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const auto reader = quantd::SafetensorsReader::FromBytes({bytes, bytes + size});
  if (!reader.ok()) {
    if (absl::IsInternal(reader.status()) || absl::IsUnknown(reader.status())) __builtin_trap();
    return 0;
  }
  for (const quantd::TensorInfo& info : (*reader)->header().tensors) {
    const auto tensor = (*reader)->Read(info.name);
    if (!tensor.ok() || tensor->bytes.size() != info.end - info.begin) __builtin_trap();
  }
  return 0;
}
