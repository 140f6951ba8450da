// How optimum-quanto 0.2.7 and Transformers 5.23 say what is quantized with it.
#ifndef QUANTD_QUANTIZERS_CODECS_QUANTO_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_QUANTO_CONFIG_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// One storage type of weights (quanto's qtype). int8 and float8 rows have one scale each; 2 and 4
// bits are grouped, with scale and shift.
struct QuantoType {
  absl::string_view name;  // "qint4", as quantization maps spell it
  int bits;
  DType dtype;  // that the codes are stored in; U8 for packed ones
  float max;    // 8 bits: the largest value
};

// By quanto's name ("qint4", "qfloat8_e5m2") or Transformers' ("int4", "float8"); null if unknown.
const QuantoType* FindQuantoType(absl::string_view name);

struct QuantoConfig {
  const QuantoType* weights = nullptr;  // of all modules; null with a map
  std::optional<std::vector<std::string>> modules_to_not_convert;
  // What quanto_qmap.json says: the quantized modules and their types.
  std::optional<std::map<std::string, const QuantoType*, std::less<>>> modules;
  // [out, in] of a matrix outside a model; its packed form does not tell.
  std::optional<Shape> shape;
};

// Transformers' QuantoConfig with the further key `quantization_map`, quanto's own map, or `shape`.
// INVALID_ARGUMENT for unknown types; UNIMPLEMENTED for quantized activations, which need
// calibration.
absl::StatusOr<QuantoConfig> ParseQuantoConfig(const std::string& json);
std::string WriteQuantoConfig(const QuantoConfig& config);

// The config under which a checkpoint with this quanto_qmap.json (JSON text) is read.
absl::StatusOr<std::string> QuantoConfigOfMap(const std::string& map_json);
// quanto_qmap.json for these modules and their types, in this order.
std::string WriteQuantoMap(const std::vector<std::pair<std::string, const QuantoType*>>& modules);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUANTO_CONFIG_H_
