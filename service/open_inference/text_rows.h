// Text generation for the rows of a request: gathered into one answer or streamed.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_TEXT_ROWS_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_TEXT_ROWS_H_

#include <vector>

#include "service/open_inference/inference.h"

namespace quantd {

// Starts one generation per prompt; `call.reply` is finished when all have ended. `one_by_one`: a
// response per piece of text, for a single prompt only.
void GenerateRows(ServiceContext& services, const InferCall& call,
                  std::shared_ptr<const ModelLease> lease,
                  std::vector<std::vector<int32_t>> prompts, const GenerationOptions& options,
                  bool one_by_one);

// A response with model, version and id filled in.
inference::ModelInferResponse ResponseTo(const inference::ModelInferRequest& request);
void MarkFinal(bool is_final, inference::ModelInferResponse& response);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_TEXT_ROWS_H_
