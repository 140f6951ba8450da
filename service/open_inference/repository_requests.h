// Repository and log requests of the Open Inference Protocol.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_REPOSITORY_REQUESTS_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_REPOSITORY_REQUESTS_H_

#include <string>

#include "inference/grpc_service.pb.h"
#include "service/context.h"

namespace quantd {

// Triton's clients fill model_name; KServe's know only one field, the first.
template <class Request>
const std::string& ModelNameOf(const Request& request) {
  return request.model_name().empty() ? request.repository_name() : request.model_name();
}

// Settings of a load: defaults, or from the `config` parameter (JSON of a ModelConfig) its
// parameters device, compute ("fast", "exact"), context_length and max_sequences. UNIMPLEMENTED for
// `file:` parameters: models come from the root.
absl::StatusOr<LoadSettings> SettingsFrom(const inference::RepositoryModelLoadRequest& request,
                                          const ServerConfig& config);

void FillIndex(const ServiceContext& services, bool ready_only,
               inference::RepositoryIndexResponse& out);

// log_verbose_level, log_info, log_warning, log_error. INVALID_ARGUMENT for a wrong kind or key.
absl::Status ApplyLogSettings(const inference::LogSettingsRequest& request);
void FillLogSettings(inference::LogSettingsResponse& out);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_REPOSITORY_REQUESTS_H_
