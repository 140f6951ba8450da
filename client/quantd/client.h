// quantd's C++ client: a thin, thread-safe wrapper over the gRPC API of quant.v1.
//
//   auto client = quantd::Client::Connect({.address = "127.0.0.1:8001"});
//   quant::v1::QuantizeCheckpointRequest request;
//   request.set_model("smollm2-135m.gguf");
//   request.set_output_name("smollm2-nf4");
//   request.mutable_recipe()->set_method("bitsandbytes");
//   auto report = (*client)->Quantize(request, [](const quant::v1::Progress& p) { ... });
//
// Messages are the API's own, documented in proto/quant/v1. Calls are repeated while the server is
// UNAVAILABLE and has answered nothing, as during its restart, with pauses that double up to two
// seconds, for ClientOptions::retry_for and within the call's timeout. A start of an operation is
// given a request id, so that a retry cannot start two. Errors are absl::Status with the server's
// code and message.
#ifndef QUANTD_CLIENT_H_
#define QUANTD_CLIENT_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/longrunning/operations.pb.h"
#include "quant/v1/evaluation.pb.h"
#include "quant/v1/inference.pb.h"
#include "quant/v1/methods.pb.h"
#include "quant/v1/models.pb.h"
#include "quant/v1/quantization.pb.h"

namespace grpc {
class Channel;
}

#define QUANTD_CLIENT_EXPORT __attribute__((visibility("default")))

namespace quantd {

// Cancels every call it was given to. Thread-safe; may be cancelled once.
class QUANTD_CLIENT_EXPORT Cancellation {
 public:
  Cancellation();
  ~Cancellation();
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  void Cancel();
  bool cancelled() const;

  struct State;  // of the implementation

 private:
  friend class Client;
  std::shared_ptr<State> state_;
};

struct CallOptions {
  // The call fails with DEADLINE_EXCEEDED after this time. Infinite by default; the server applies
  // its own limit to generation.
  absl::Duration timeout = absl::InfiniteDuration();
  Cancellation* cancellation = nullptr;  // not owned; must outlive the call
  std::string request_id = "";  // "x-request-id" in the server's log; empty: the server's own
};

struct ClientOptions {
  std::string address = "127.0.0.1:8001";  // host:port, or unix:PATH
  // TLS is used when a CA, or a client certificate, is given. PEM text.
  std::string tls_ca = "";
  std::string tls_cert = "";
  std::string tls_key = "";
  std::string token = "";  // sent as "authorization: Bearer ..."
  // How long a call is repeated while the server is UNAVAILABLE: a server that is restarted takes
  // some seconds. Zero: not at all.
  absl::Duration retry_for = absl::Seconds(30);
  size_t max_message_bytes = size_t{256} << 20;
};

// A tensor on its way to or from QuantizeTensor and DequantizeTensor.
struct TensorData {
  quant::v1::TensorSpec spec;
  std::string bytes;
};

struct QuantizedTensorData {
  std::vector<TensorData> tensors;
  std::string quantization_config;  // JSON text that DequantizeTensor needs
  std::vector<std::string> warnings = {};
};

class QUANTD_CLIENT_EXPORT Client {
 public:
  // Prepares a connection; it is made by the first call. INVALID_ARGUMENT for unusable options.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  // Over a channel of the caller's, which may lead to a server in the same process.
  static std::unique_ptr<Client> FromChannel(std::shared_ptr<grpc::Channel> channel,
                                             const ClientOptions& options);
  ~Client();

  // Waits until the server answers; UNAVAILABLE after `timeout`.
  absl::Status WaitReady(absl::Duration timeout);

  // Methods.
  absl::StatusOr<quant::v1::ListMethodsResponse> ListMethods(const CallOptions& call = {});
  absl::StatusOr<quant::v1::Method> GetMethod(const std::string& name,
                                              const CallOptions& call = {});

  // Quantization. Progress callbacks run on the calling thread.
  using ProgressCallback = std::function<void(const quant::v1::Progress&)>;
  absl::StatusOr<google::longrunning::Operation> StartQuantize(
      const quant::v1::QuantizeCheckpointRequest& request, const CallOptions& call = {});
  absl::StatusOr<google::longrunning::Operation> StartDequantize(
      const quant::v1::DequantizeCheckpointRequest& request, const CallOptions& call = {});
  // Starts, watches and waits. Cancelling `call` cancels the operation on the server too.
  absl::StatusOr<quant::v1::QuantizeReport> Quantize(
      const quant::v1::QuantizeCheckpointRequest& request, const ProgressCallback& progress = {},
      const CallOptions& call = {});
  absl::StatusOr<quant::v1::QuantizeReport> Dequantize(
      const quant::v1::DequantizeCheckpointRequest& request, const ProgressCallback& progress = {},
      const CallOptions& call = {});
  // Follows an operation to its end, reconnecting when the stream breaks.
  absl::StatusOr<google::longrunning::Operation> Watch(
      const std::string& operation,
      const std::function<void(const google::longrunning::Operation&)>& on_change,
      const CallOptions& call = {});
  absl::StatusOr<QuantizedTensorData> QuantizeTensor(const quant::v1::Recipe& recipe,
                                                     const TensorData& weight,
                                                     const CallOptions& call = {});
  // With inputs of the linear, [..., in], for methods that are fitted to them; null: none.
  absl::StatusOr<QuantizedTensorData> QuantizeTensor(const quant::v1::Recipe& recipe,
                                                     const TensorData& weight,
                                                     const TensorData* calibration,
                                                     const CallOptions& call = {});
  // With the name that the weight has in its model ("blk.3.ffn_down.weight"), which the option
  // imatrix asks for.
  absl::StatusOr<QuantizedTensorData> QuantizeTensor(const quant::v1::Recipe& recipe,
                                                     const TensorData& weight,
                                                     const TensorData* calibration,
                                                     const std::string& name,
                                                     const CallOptions& call = {});
  absl::StatusOr<TensorData> DequantizeTensor(const QuantizedTensorData& quantized,
                                              const std::string& dtype,
                                              const CallOptions& call = {});

  // Operations.
  absl::StatusOr<google::longrunning::ListOperationsResponse> ListOperations(
      const google::longrunning::ListOperationsRequest& request, const CallOptions& call = {});
  absl::StatusOr<google::longrunning::Operation> GetOperation(const std::string& name,
                                                              const CallOptions& call = {});
  absl::Status CancelOperation(const std::string& name, const CallOptions& call = {});

  // Models.
  absl::StatusOr<quant::v1::ListModelsResponse> ListModels(
      const quant::v1::ListModelsRequest& request, const CallOptions& call = {});
  absl::StatusOr<quant::v1::Model> GetModel(const std::string& name, const CallOptions& call = {});
  absl::StatusOr<quant::v1::Model> LoadModel(const quant::v1::LoadModelRequest& request,
                                             const CallOptions& call = {});
  absl::StatusOr<quant::v1::UnloadModelResponse> UnloadModel(const std::string& name,
                                                             const CallOptions& call = {});
  absl::StatusOr<quant::v1::InspectModelResponse> InspectModel(const std::string& name,
                                                               const CallOptions& call = {});
  absl::StatusOr<quant::v1::ServerStatus> GetServerStatus(const CallOptions& call = {});

  // Inference. `on_chunk` runs on the calling thread; returning false cancels the generation.
  using ChunkCallback = std::function<bool(const quant::v1::GenerateResponse&)>;
  // The last response, with finish reason and usage.
  absl::StatusOr<quant::v1::GenerateResponse> Generate(const quant::v1::GenerateRequest& request,
                                                       const ChunkCallback& on_chunk,
                                                       const CallOptions& call = {});
  absl::StatusOr<quant::v1::EmbedResponse> Embed(const quant::v1::EmbedRequest& request,
                                                 const CallOptions& call = {});
  absl::StatusOr<quant::v1::ScoreResponse> Score(const quant::v1::ScoreRequest& request,
                                                 const CallOptions& call = {});
  absl::StatusOr<quant::v1::TokenizeResponse> Tokenize(const quant::v1::TokenizeRequest& request,
                                                       const CallOptions& call = {});
  absl::StatusOr<quant::v1::DetokenizeResponse> Detokenize(
      const quant::v1::DetokenizeRequest& request, const CallOptions& call = {});
  absl::StatusOr<quant::v1::EvaluateResult> Evaluate(
      const quant::v1::EvaluateRequest& request,
      const std::function<void(const quant::v1::EvaluateResponse&)>& progress = {},
      const CallOptions& call = {});

 private:
  struct Connection;
  explicit Client(std::unique_ptr<Connection> connection);
  // `start` sends a request that has an id: the same operation each time.
  absl::StatusOr<quant::v1::QuantizeReport> Follow(
      const std::function<absl::StatusOr<google::longrunning::Operation>(const CallOptions&)>&
          start,
      const ProgressCallback& progress, const CallOptions& call);

  std::unique_ptr<Connection> connection_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_H_
