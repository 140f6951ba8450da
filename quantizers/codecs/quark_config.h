// AMD Quark's quantization_config as its Hugging Face export writes it (amd-quark 0.13,
// quantization/config/config.py, QConfig.to_dict; export/config, JsonExporterConfig).
#ifndef QUANTD_QUANTIZERS_CODECS_QUARK_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_QUARK_CONFIG_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "re2/re2.h"

namespace quantd {

enum class QuarkScheme { kTensor, kChannel, kGroup };
absl::string_view NameOf(QuarkScheme scheme);

// How the exponent of a Microscaling block is found.
enum class QuarkExponent { kEven, kFloor, kCeil };

// What one tensor config ("weight") asks of a matrix.
struct QuarkSpec {
  enum class Values { kInteger, kFloat8, kMicroscaling, kPlain };
  std::string dtype;  // "int4", "fp8_e4m3", "fp4", "bfloat16"
  Values values = Values::kInteger;
  int bits = 8;
  bool is_signed = true;            // kInteger
  DType stored_dtype = DType::kI8;  // of the codes, or of the values of kPlain
  QuarkScheme scheme = QuarkScheme::kTensor;
  int64_t group_size = 0;                         // kGroup
  bool symmetric = true;                          // kInteger: zero points are all 0
  std::optional<DType> scale_dtype;               // unset: the weight's
  QuarkExponent exponent = QuarkExponent::kEven;  // kMicroscaling

  BlockShape block() const;
  // Integers in groups are stored as [in, out].
  bool is_transposed() const;
  std::string Describe() const;  // "int4 group 128 symmetric"
};

// A dtype by its name in configs, with everything but scheme and group; nullopt when unknown.
std::optional<QuarkSpec> QuarkSpecNamed(absl::string_view dtype);

struct QuarkLayer {
  std::optional<QuarkSpec> weight;
  // input_tensors with one static scale, integers or fp8; their scales are in the file.
  std::optional<QuarkSpec> inputs;
  // Why scales of activations that the file has cannot be made: two-stage specs, groups, outputs,
  // observers other than PerTensorMinMaxObserver.
  absl::Status cannot_be_made;
};

struct QuarkConfig {
  // A module name or a wildcard pattern of shells.
  struct Rule {
    std::shared_ptr<const RE2> pattern;
    QuarkLayer layer;
  };
  std::vector<Rule> layers;           // layer_quant_config
  std::optional<QuarkLayer> linears;  // layer_type_quant_config of nn.Linear
  QuarkLayer global;
  std::vector<std::shared_ptr<const RE2>> exclude;
  bool reorder = true;             // pack_method
  bool needs_calibration = false;  // algorithms, key/value caches
  std::string json;                // the document

  // nullptr when the module stays as it is.
  const QuarkSpec* SpecOf(absl::string_view module) const;
  // That of a module that is not excluded; whether its weight is quantized, it says itself.
  const QuarkLayer* LayerOf(absl::string_view module) const;
};

// INVALID_ARGUMENT names key, found and expected; UNIMPLEMENTED for what upstream has and we do
// not.
absl::StatusOr<QuarkConfig> ParseQuarkConfig(const std::string& json);

// A request spelled in options.
struct QuarkRequest {
  std::string dtype = "int4";
  std::string qscheme;  // "": per_group for integers, per_tensor for fp8
  int64_t group_size = 0;
  bool symmetric = true;
  std::string scale_calculation_mode;  // "": even
  std::string input_dtype;             // of inputs with one static scale; "": not quantized
  bool input_symmetric = true;
  std::string pack_method = "reorder";
  std::vector<std::string> exclude;
};
// The document that upstream's export writes for it.
std::string QuarkRequestJson(const QuarkRequest& request);
std::vector<std::string> QuarkDTypes();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUARK_CONFIG_H_
