#include "client/quantd/client.h"

#include "absl/strings/str_cat.h"
#include "client/quantd/connection.h"
#include "client/quantd/request_text.h"

namespace quantd {
namespace {

// One unary call: `method` is a member of `stub`.
template <class Stub, class Request, class Response>
absl::StatusOr<Response> Unary(const Link& link, const CallOptions& options,
                               const std::shared_ptr<Cancellation::State>& cancellation, Stub& stub,
                               grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                               const Request& request) {
  if (absl::Status text = CheckText(request); !text.ok()) return text;
  Attempts attempts(link, options, cancellation);
  while (true) {
    Call call(link.options, attempts.Rest(), cancellation);
    Response response;
    absl::Status status = FromGrpc((stub.*method)(call.context(), request, &response));
    if (status.ok()) return response;
    if (!attempts.Again(status)) return status;
  }
}

// One call with a stream of responses: `open(context)` starts it by `request`, `on_response` sees
// each and may end the call. The last response.
template <class Response, class Request, class Open, class OnResponse>
absl::StatusOr<Response> Stream(const Link& link, const CallOptions& options,
                                const std::shared_ptr<Cancellation::State>& cancellation,
                                const Request& request, const Open& open,
                                const OnResponse& on_response) {
  if (absl::Status text = CheckText(request); !text.ok()) return text;
  Attempts attempts(link, options, cancellation);
  while (true) {
    Call call(link.options, attempts.Rest(), cancellation);
    const auto reader = open(call.context());
    Response response;
    bool answered = false;
    while (reader->Read(&response)) {
      answered = true;
      if (on_response(response)) continue;
      call.context()->TryCancel();
      break;
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (status.ok()) return response;
    if (answered || !attempts.Again(status)) return status;
  }
}

template <class Request>
Request Named(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

}  // namespace

// `UNARY(stub, Rpc, request)` inside a Client method with a `call` parameter.
#define UNARY(stub, rpc, request)                                                           \
  Unary(connection_->link(), call, call.cancellation ? call.cancellation->state_ : nullptr, \
        *connection_->stub, &std::remove_reference_t<decltype(*connection_->stub)>::rpc, request)

absl::StatusOr<quant::v1::ListMethodsResponse> Client::ListMethods(const CallOptions& call) {
  return UNARY(methods, ListMethods, quant::v1::ListMethodsRequest());
}
absl::StatusOr<quant::v1::Method> Client::GetMethod(const std::string& name,
                                                    const CallOptions& call) {
  return UNARY(methods, GetMethod, Named<quant::v1::GetMethodRequest>(name));
}
absl::StatusOr<google::longrunning::Operation> Client::StartQuantize(
    const quant::v1::QuantizeCheckpointRequest& request, const CallOptions& call) {
  return UNARY(quantization, QuantizeCheckpoint, WithRequestId(request));
}
absl::StatusOr<google::longrunning::Operation> Client::StartDequantize(
    const quant::v1::DequantizeCheckpointRequest& request, const CallOptions& call) {
  return UNARY(quantization, DequantizeCheckpoint, WithRequestId(request));
}
absl::StatusOr<google::longrunning::ListOperationsResponse> Client::ListOperations(
    const google::longrunning::ListOperationsRequest& request, const CallOptions& call) {
  return UNARY(operations, ListOperations, request);
}
absl::StatusOr<google::longrunning::Operation> Client::GetOperation(const std::string& name,
                                                                    const CallOptions& call) {
  return UNARY(operations, GetOperation, Named<google::longrunning::GetOperationRequest>(name));
}
absl::Status Client::CancelOperation(const std::string& name, const CallOptions& call) {
  return UNARY(operations, CancelOperation,
               Named<google::longrunning::CancelOperationRequest>(name))
      .status();
}
absl::StatusOr<quant::v1::ListModelsResponse> Client::ListModels(
    const quant::v1::ListModelsRequest& request, const CallOptions& call) {
  return UNARY(models, ListModels, request);
}
absl::StatusOr<quant::v1::Model> Client::GetModel(const std::string& name,
                                                  const CallOptions& call) {
  return UNARY(models, GetModel, Named<quant::v1::GetModelRequest>(name));
}
absl::StatusOr<quant::v1::Model> Client::LoadModel(const quant::v1::LoadModelRequest& request,
                                                   const CallOptions& call) {
  return UNARY(models, LoadModel, request);
}
absl::StatusOr<quant::v1::UnloadModelResponse> Client::UnloadModel(const std::string& name,
                                                                   const CallOptions& call) {
  return UNARY(models, UnloadModel, Named<quant::v1::UnloadModelRequest>(name));
}
absl::StatusOr<quant::v1::InspectModelResponse> Client::InspectModel(const std::string& name,
                                                                     const CallOptions& call) {
  return UNARY(models, InspectModel, Named<quant::v1::InspectModelRequest>(name));
}
absl::StatusOr<quant::v1::ServerStatus> Client::GetServerStatus(const CallOptions& call) {
  return UNARY(models, GetServerStatus, quant::v1::GetServerStatusRequest());
}
absl::StatusOr<quant::v1::EmbedResponse> Client::Embed(const quant::v1::EmbedRequest& request,
                                                       const CallOptions& call) {
  return UNARY(inference, Embed, request);
}
absl::StatusOr<quant::v1::ScoreResponse> Client::Score(const quant::v1::ScoreRequest& request,
                                                       const CallOptions& call) {
  return UNARY(inference, Score, request);
}
absl::StatusOr<quant::v1::TokenizeResponse> Client::Tokenize(
    const quant::v1::TokenizeRequest& request, const CallOptions& call) {
  return UNARY(inference, Tokenize, request);
}
absl::StatusOr<quant::v1::DetokenizeResponse> Client::Detokenize(
    const quant::v1::DetokenizeRequest& request, const CallOptions& call) {
  return UNARY(inference, Detokenize, request);
}

#undef UNARY

absl::StatusOr<quant::v1::GenerateResponse> Client::Generate(
    const quant::v1::GenerateRequest& request, const ChunkCallback& on_chunk,
    const CallOptions& options) {
  return Stream<quant::v1::GenerateResponse>(
      connection_->link(), options, options.cancellation ? options.cancellation->state_ : nullptr,
      request,
      [&](grpc::ClientContext* context) {
        return connection_->inference->Generate(context, request);
      },
      [&](const quant::v1::GenerateResponse& response) { return !on_chunk || on_chunk(response); });
}

absl::StatusOr<quant::v1::EvaluateResult> Client::Evaluate(
    const quant::v1::EvaluateRequest& request,
    const std::function<void(const quant::v1::EvaluateResponse&)>& progress,
    const CallOptions& options) {
  auto last = Stream<quant::v1::EvaluateResponse>(
      connection_->link(), options, options.cancellation ? options.cancellation->state_ : nullptr,
      request,
      [&](grpc::ClientContext* context) {
        return connection_->evaluation->Evaluate(context, request);
      },
      [&](const quant::v1::EvaluateResponse& response) {
        if (progress) progress(response);
        return true;
      });
  if (!last.ok()) return last.status();
  return last->result();
}

}  // namespace quantd
