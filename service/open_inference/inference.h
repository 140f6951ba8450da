// One inference request of the Open Inference Protocol against a loaded model. Knows nothing of
// gRPC.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_INFERENCE_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_INFERENCE_H_

#include <atomic>
#include <memory>

#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "service/context.h"

namespace quantd {

// Where the answers of one request go. Called from any thread; must not block.
class InferReply {
 public:
  virtual ~InferReply() = default;
  // False: the client is gone, stop.
  virtual bool Push(inference::ModelInferResponse response) = 0;
  // False: pause.
  virtual bool Ready() const { return true; }
  // Exactly once; nothing is called afterwards.
  virtual void Finish(const absl::Status& status) = 0;
};

struct InferCall {
  std::shared_ptr<const inference::ModelInferRequest> request;
  absl::Time deadline;
  std::shared_ptr<const std::atomic<bool>> cancelled;
  // Text comes piece by piece, the last one (and any single answer) marked triton_final_response.
  bool streaming = false;
  std::shared_ptr<InferReply> reply;
};

// Runs on a worker thread: waits for logits and embeddings, starts text generation and returns.
// Statuses: NOT_FOUND (unknown model), UNAVAILABLE (known but not ready), INVALID_ARGUMENT naming
// the tensor or parameter, OUT_OF_RANGE (longer than the context), RESOURCE_EXHAUSTED (answer too
// large).
void Infer(ServiceContext& services, InferCall call);

// Maps the repository's errors to the protocol's: see above.
absl::StatusOr<std::shared_ptr<const ModelLease>> AcquireForInference(ServiceContext& services,
                                                                      const std::string& model,
                                                                      const std::string& version);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_INFERENCE_H_
