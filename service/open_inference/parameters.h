// Request parameters of the Open Inference Protocol as generation options.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_PARAMETERS_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_PARAMETERS_H_

#include <string>

#include "inference/grpc_service.pb.h"
#include "models/model.h"

namespace quantd {

using InferParameters = google::protobuf::Map<std::string, inference::InferParameter>;

// max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, stop, ignore_eos. Numbers
// may come as text, because some clients cannot send doubles. INVALID_ARGUMENT names an unknown
// key, or a key of a wrong kind with the expected one. Keys that the protocol reserves (sequence_*,
// priority, timeout, headers, triton_*, ...) are left to it.
absl::Status ApplyParameters(const InferParameters& parameters, GenerationOptions& options);

// The same keys as a JSON object: the `sampling_parameters` input of the LLM convention. `stop` may
// be a list.
absl::Status ApplyJsonParameters(const std::string& json, GenerationOptions& options);

// A boolean parameter; false when absent, INVALID_ARGUMENT when of another kind.
absl::StatusOr<bool> BoolParameter(const InferParameters& parameters, const std::string& key);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_PARAMETERS_H_
