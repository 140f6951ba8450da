// What a model looks like through the Open Inference Protocol.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_DESCRIPTION_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_DESCRIPTION_H_

#include <string>
#include <vector>

#include "inference/grpc_service.pb.h"
#include "models/model.h"
#include "service/model_statistics.h"

namespace quantd {

// Every model has the one version "1".
inline constexpr char kModelVersion[] = "1";

struct TensorDescription {
  std::string name;
  std::string datatype;
  inference::DataType type;
  std::vector<int64_t> shape;  // -1: any length
  bool optional = false;
};

std::vector<TensorDescription> InputsOf(const Model& model);
std::vector<TensorDescription> OutputsOf(const Model& model);

void FillMetadata(const std::string& name, const Model& model,
                  inference::ModelMetadataResponse& out);
void FillConfig(const std::string& name, const Model& model, inference::ModelConfig& out);
void FillStatistics(const std::string& name, const Model& model, const ModelCounters& counters,
                    inference::ModelStatistics& out);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_DESCRIPTION_H_
