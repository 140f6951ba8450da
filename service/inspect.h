// What a checkpoint holds, from its headers.
#ifndef QUANTD_SERVICE_INSPECT_H_
#define QUANTD_SERVICE_INSPECT_H_

#include <string>

#include "quant/v1/models.pb.h"
#include "service/context.h"

namespace quantd {

// A model of the root, or a .safetensors or .gguf file directly in it.
absl::Status Inspect(const ServiceContext& services, const std::string& name,
                     quant::v1::InspectModelResponse& out);

}  // namespace quantd

#endif  // QUANTD_SERVICE_INSPECT_H_
