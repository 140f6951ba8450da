// What a Client holds: the channel, its stubs and how a call is prepared. Not installed.
#ifndef QUANTD_CLIENT_CONNECTION_H_
#define QUANTD_CLIENT_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "client/quantd/client.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "quant/v1/evaluation.grpc.pb.h"
#include "quant/v1/inference.grpc.pb.h"
#include "quant/v1/methods.grpc.pb.h"
#include "quant/v1/models.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"

namespace quantd {

struct Cancellation::State {
  std::mutex mutex;
  bool cancelled = false;
  std::set<grpc::ClientContext*> calls;
};

// Where calls go, and how.
struct Link {
  grpc::Channel& channel;
  const ClientOptions& options;
  // Whether the channel may be asked for its state: gRPC keeps none of those within a process.
  bool has_state;

  // False only if it is known that no server is there.
  bool MayAnswer() const { return !has_state || channel.GetState(false) == GRPC_CHANNEL_READY; }
};

struct Client::Connection {
  Connection(std::shared_ptr<grpc::Channel> channel, ClientOptions options, bool has_state);
  Link link() const { return {*channel, options, has_state}; }

  std::shared_ptr<grpc::Channel> channel;
  ClientOptions options;
  bool has_state;
  std::unique_ptr<quant::v1::MethodService::Stub> methods;
  std::unique_ptr<quant::v1::QuantizationService::Stub> quantization;
  std::unique_ptr<google::longrunning::Operations::Stub> operations;
  std::unique_ptr<quant::v1::ModelService::Stub> models;
  std::unique_ptr<quant::v1::InferenceService::Stub> inference;
  std::unique_ptr<quant::v1::EvaluationService::Stub> evaluation;
};

// A ClientContext set up by the options of a call and registered with its cancellation.
class Call {
 public:
  Call(const ClientOptions& client, const CallOptions& options,
       std::shared_ptr<Cancellation::State> cancellation);
  ~Call();
  grpc::ClientContext* context() { return &context_; }

 private:
  grpc::ClientContext context_;
  std::shared_ptr<Cancellation::State> cancellation_;
};

// The attempts of one call: whether and when there is another, and how long it may take.
class Attempts {
 public:
  Attempts(const Link& link, const CallOptions& options,
           std::shared_ptr<Cancellation::State> cancellation);
  // The options of the call with what is left of its timeout.
  CallOptions Rest() const;
  // After a failure with `status`: true, after a pause, when the call is to be made again. A call
  // that a server cut off because it shuts down was UNAVAILABLE, whatever gRPC calls it.
  bool Again(absl::Status& status);
  // The server has answered something: the time for repetitions begins anew.
  void Restart();

 private:
  bool cancelled() const;
  void Pause(absl::Time until) const;

  const Link link_;
  const CallOptions options_;
  const std::shared_ptr<Cancellation::State> cancellation_;
  const absl::Time deadline_;
  absl::Time give_up_;
  absl::Duration pause_;
};

absl::Status FromGrpc(const grpc::Status& status);

// A random id.
std::string NewRequestId();

// The request with an id of its own, unless the caller gave it one: by it the server knows a retry.
template <class Request>
Request WithRequestId(Request request) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  return request;
}

}  // namespace quantd

#endif  // QUANTD_CLIENT_CONNECTION_H_
