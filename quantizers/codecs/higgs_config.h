// The quantization_config of HIGGS (Transformers 5.23, HiggsConfig) with FLUTE's record of how each
// layer is packed (flute-kernel 0.4.2, TuneMetaData).
#ifndef QUANTD_QUANTIZERS_CODECS_HIGGS_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_HIGGS_CONFIG_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "quantizers/codecs/higgs_packing.h"

namespace quantd {

// How a layer [n, k] was packed.
struct HiggsTuning {
  int64_t m = 1;  // tokens that the kernel was chosen for
  int64_t n = 0;
  int64_t k = 0;
  int64_t num_sms = 132;  // of the GPU that it was chosen on: an H100
  DType dtype = DType::kF16;
  std::string device = "cuda:0";
  int64_t template_id = 0;
};

struct HiggsConfig {
  int bits = 4;
  int p = 2;
  int64_t group_size = 256;
  int64_t hadamard_size = 512;
  std::optional<std::vector<std::string>> modules_to_not_convert;  // unset: the automatic list
  std::map<std::string, HiggsTuning> tune_metadata;                // by module

  // That of the module, or null.
  const HiggsTuning* Find(const std::string& module) const;
  // Of a layer that is written here: the first kernel with tiles of 32.
  HiggsTuning DefaultTuning(int64_t rows, int64_t cols, DType dtype) const;
  FlutePacking PackingOf(const HiggsTuning& tuning) const;
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<HiggsConfig> ParseHiggsConfig(const std::string& json);
absl::Status CheckHiggsConfig(const HiggsConfig& config);
// Every key, as Transformers writes it.
std::string WriteHiggsConfig(const HiggsConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HIGGS_CONFIG_H_
