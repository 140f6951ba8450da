// The quantization_configs of FINEGRAINED_FP8 and FBGEMM_FP8 (Transformers 5.23,
// FineGrainedFP8Config and FbgemmFp8Config).
#ifndef QUANTD_QUANTIZERS_CODECS_FP8_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_FP8_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"

namespace quantd {

struct FineGrainedFp8Config {
  std::optional<std::vector<std::string>> modules_to_not_convert;  // unset: the automatic list
  bool has_modules_to_convert = false;  // embedding tables in fp8 as well
  std::string activation_scheme = "dynamic";
  BlockShape tile = {.rows = 128, .cols = 128};  // {0, 0}: one scale for the matrix
  std::string scale_fmt = "float";
  std::string expert_dtype = "fp8";

  bool is_static() const { return activation_scheme == "static"; }
};

// INVALID_ARGUMENT names the key, found and expected. Also reads quant_method "mxfp8": tiles of
// [1, 32] with power-of-two scales unless the config says otherwise.
absl::StatusOr<FineGrainedFp8Config> ParseFineGrainedFp8Config(const std::string& json);
absl::Status CheckFineGrainedFp8Config(const FineGrainedFp8Config& config);
// Every key, as Transformers writes it.
std::string WriteFineGrainedFp8Config(const FineGrainedFp8Config& config);

struct FbgemmFp8Config {
  double activation_scale_ub = 1200.0;
  std::optional<std::vector<std::string>> modules_to_not_convert;
};

absl::StatusOr<FbgemmFp8Config> ParseFbgemmFp8Config(const std::string& json);
absl::Status CheckFbgemmFp8Config(const FbgemmFp8Config& config);
std::string WriteFbgemmFp8Config(const FbgemmFp8Config& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_FP8_CONFIG_H_
