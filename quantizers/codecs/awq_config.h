// The quantization_config of AWQ checkpoints: AutoAWQ 0.2.9 (old ones spell it w_bit,
// q_group_size), GPTQModel 7.7, auto-round 0.16's auto_awq, Transformers 5.23 AwqConfig.
#ifndef QUANTD_QUANTIZERS_CODECS_AWQ_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_AWQ_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

// How the tensors of a Linear are laid out.
enum class AwqVersion { kGemm, kGemv, kGemvFast, kMarlin };

absl::string_view NameOf(AwqVersion version);  // "gemm", "gemv", "gemv_fast", "marlin"
// By any name that upstream uses, in any case: "GEMM", "exllama", "ipex", "llm-awq", ...
std::optional<AwqVersion> AwqVersionNamed(absl::string_view name);

struct AwqConfig {
  int bits = 4;              // others than 4 with gemm only
  int64_t group_size = 128;  // -1: whole rows
  bool zero_point = true;
  AwqVersion version = AwqVersion::kGemm;
  std::optional<std::vector<std::string>> modules_to_not_convert;
  // Who wrote it: auto-round interleaves columns at every width, GPTQModel at 4 bits only.
  bool by_auto_round = false;
  // GPTQModel's `dynamic`: modules may have other widths and groups, which their shapes tell.
  bool varies = false;

  // Whether columns are interleaved at a width.
  bool Interleaves(int width) const { return width == 4 || by_auto_round; }
};

// INVALID_ARGUMENT names the key, found and expected. Keys that do not change what the tensors mean
// are ignored, as upstream does.
absl::StatusOr<AwqConfig> ParseAwqConfig(const std::string& json);
// The quantization_config that the file quant_config.json of old AutoAWQ checkpoints stands for:
// its keys and the quant_method "awq". INVALID_ARGUMENT unless it is a JSON object.
absl::StatusOr<std::string> AwqConfigOfFile(const std::string& json);
// Every key, as AutoAWQ writes it.
std::string WriteAwqConfig(const AwqConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AWQ_CONFIG_H_
