// The named schemes of compressed-tensors 0.20 (quantization/quant_scheme.py, PRESET_SCHEMES).
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PRESETS_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PRESETS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd {

struct CtPreset {
  const char* name;
  const char* scheme;  // JSON of a QuantizationScheme without its targets
};

// nullptr when unknown; upper and lower case are the same.
const CtPreset* FindCtPreset(absl::string_view name);
const std::vector<std::string>& CtPresetNames();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_PRESETS_H_
