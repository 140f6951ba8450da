// torchao's quantization_config (Transformers 5.23, TorchAoConfig; torchao 0.18, core/config.py):
// one config class with its fields, or a map of module names to such classes.
#ifndef QUANTD_QUANTIZERS_CODECS_TORCHAO_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_TORCHAO_CONFIG_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "re2/re2.h"

namespace quantd {

// The tensor subclass that a config class makes of a weight.
enum class AoTensor { kInt8, kInt4, kIntx, kFloat8 };
// "Int8Tensor", "Int4Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor".
absl::string_view NameOf(AoTensor tensor);

enum class AoMapping { kSymmetric, kSymmetricNoClipping, kAsymmetric };

// What one config class asks of a matrix.
struct AoScheme {
  std::string config_class;  // "Int8WeightOnlyConfig"
  AoTensor tensor = AoTensor::kInt8;
  int bits = 8;      // kIntx: 1 to 8
  BlockShape block;  // what shares a scale
  AoMapping mapping = AoMapping::kSymmetric;
  bool reduce_range = false;           // kInt8: half the codes
  DType float_dtype = DType::kF8E4M3;  // kFloat8
  std::optional<DType> scale_dtype;    // kIntx: unset is the weight's
  bool hqq_scales = false;             // kIntx: scales refined by half-quadratic steps
  bool needs_multiples_of_16 = false;  // other shapes stay as they are
  bool needs_bfloat16 = false;
  // JSON of the attributes that travel in the header: "act_quant_kwargs", "mm_config", ...
  std::map<std::string, std::string> attributes;
};

struct TorchAoConfig {
  // Keys of FqnToConfig in their order ("re:" patterns, names, "_default"); a single config class
  // is the only rule, under "_default". No scheme: the module stays as it is.
  struct Rule {
    std::string key;
    std::shared_ptr<const RE2> pattern;  // of "re:" keys
    std::optional<AoScheme> scheme;
  };
  std::vector<Rule> rules;
  std::optional<std::vector<std::string>> modules_to_not_convert;  // unset: the automatic list
  bool include_input_output_embeddings = false;
  bool untie_embedding_weights = false;
  std::string quant_type;  // JSON of the config class with every field, as upstream writes it

  // The scheme of `module`'s weight: its full name first, then patterns in their order, then the
  // default. `is_named`: found by name or pattern, which also takes modules that are no nn.Linear.
  const AoScheme* SchemeOf(absl::string_view module, bool* is_named = nullptr) const;
};

// INVALID_ARGUMENT names key, found and expected; UNIMPLEMENTED for config classes and formats of
// upstream that are not supported.
absl::StatusOr<TorchAoConfig> ParseTorchAoConfig(const std::string& json);
// Every key, as Transformers writes it.
std::string WriteTorchAoConfig(const TorchAoConfig& config);

// A request spelled in options: the config class and those of its fields that are given, as text.
// A group size goes to `group_size`, `granularity` or `weight_granularity`, whichever the class
// has.
struct TorchAoRequest {
  std::string quant_type;
  std::map<std::string, std::string> fields;
  std::optional<int64_t> group_size;
  std::optional<std::vector<std::string>> modules_to_not_convert;
  bool include_input_output_embeddings = false;
};
// INVALID_ARGUMENT for fields that the class does not have.
absl::StatusOr<std::string> TorchAoRequestJson(const TorchAoRequest& request);
// Names of the config classes that are supported.
std::vector<std::string> TorchAoConfigClasses();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_TORCHAO_CONFIG_H_
