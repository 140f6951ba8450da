// The quantization_config of VPTQ (Transformers 4.56 and 5.23, VptqConfig; vptq 0.0.5): the layout
// of every layer by its name.
#ifndef QUANTD_QUANTIZERS_CODECS_VPTQ_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_VPTQ_CONFIG_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

// How the weights of one layer are stored. Of outliers -1 stands for none.
struct VptqLayer {
  int vector_len = 8;              // rows that one code stands for
  int num_centroids = 65536;       // a power of two
  int num_res_centroids = -1;      // a power of two, or -1
  int outlier_vector_len = -1;     // of the outlier columns
  int outlier_num_centroids = -1;  // of the outlier columns, a power of two
  int64_t group_num = 1;           // groups of columns with codebooks of their own
  int64_t group_size = 0;          // columns of a group
  int64_t outlier_size = 0;        // columns before the groups
  bool enable_norm = false;
  bool enable_perm = false;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool bias = false;

  bool has_residual() const { return num_res_centroids > 0; }
  int centroid_bits() const;
  int residual_bits() const;  // 0 without a residual
  int outlier_bits() const;
};

struct VptqConfig {
  std::map<std::string, VptqLayer> config_for_layers;    // by module
  std::map<std::string, VptqLayer> shared_layer_config;  // by the last part of a module's name
  // Unset: the output embedding is kept.
  std::optional<std::vector<std::string>> modules_to_not_convert;

  const VptqLayer* Find(absl::string_view module) const;
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<VptqConfig> ParseVptqConfig(const std::string& json);
std::string WriteVptqConfig(const VptqConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_VPTQ_CONFIG_H_
