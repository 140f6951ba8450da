// Names of parameters: which module they belong to, and what kind of module that is.
#ifndef QUANTD_QUANTIZERS_PARAMETER_NAMES_H_
#define QUANTD_QUANTIZERS_PARAMETER_NAMES_H_

#include <string>
#include <vector>

#include "formats/model_config.h"
#include "quantizers/method.h"
#include "quantizers/model_source.h"

namespace quantd {

struct ParameterName {
  std::string module;  // "model.layers.0.self_attn.q_proj"; empty for a bare name
  std::string local;   // "weight", "weight.absmax", "bias", "SCB"
};

// Splits at the first component that starts with "weight", "_weight" or "qweight", or is one of
// "rms_norm", "centroids", "res_centroids" and "outlier_centroids", else at the last dot.
ParameterName SplitParameterName(absl::string_view name);

// Whether `parameter` is a matrix that a recipe may quantize: two dimensions, named `weight`.
bool IsWeightMatrix(const SourceParameter& parameter);

// Whether the module of this weight has a bias.
bool HasBias(const ModelSource& source, absl::string_view weight);

// Linears that are in no block and are not the output embedding (BERT's pooler), by module. No
// method quantizes them, and loaders that replace every linear must find them in their configs.
std::vector<std::string> LinearsOutsideBlocks(const ModelConfig& config);

// What stands before the number in the names of the blocks: "model.layers", "encoder.layer".
std::string BlocksName(const ModelConfig& config);

ModuleInfo MakeModuleInfo(const SourceParameter& parameter, const ModelConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PARAMETER_NAMES_H_
