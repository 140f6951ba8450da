#include "client/quantd/connection.h"

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// Retries by gRPC itself: UNAVAILABLE before the server has answered anything.
std::string ServiceConfig(int max_attempts) {
  const int attempts = std::min(max_attempts, 5);  // gRPC's own ceiling
  return absl::StrCat(
      R"({"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":)", attempts,
      R"(,"initialBackoff":"0.1s","maxBackoff":"3s","backoffMultiplier":2,)"
      R"("retryableStatusCodes":["UNAVAILABLE"]}}],"loadBalancingConfig":[{"round_robin":{}}]})");
}

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientOptions& options) {
  if (options.tls_ca.empty() && options.tls_cert.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  return grpc::SslCredentials({options.tls_ca, options.tls_key, options.tls_cert});
}

}  // namespace

Cancellation::Cancellation() : state_(std::make_shared<State>()) {}
Cancellation::~Cancellation() = default;

void Cancellation::Cancel() {
  std::lock_guard lock(state_->mutex);
  state_->cancelled = true;
  for (grpc::ClientContext* call : state_->calls) call->TryCancel();
}

bool Cancellation::cancelled() const {
  std::lock_guard lock(state_->mutex);
  return state_->cancelled;
}

Call::Call(const ClientOptions& client, const CallOptions& options,
           std::shared_ptr<Cancellation::State> cancellation)
    : cancellation_(std::move(cancellation)) {
  if (options.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
  }
  if (!client.token.empty()) context_.AddMetadata("authorization", "Bearer " + client.token);
  if (!options.request_id.empty()) context_.AddMetadata("x-request-id", options.request_id);
  if (!cancellation_) return;
  std::lock_guard lock(cancellation_->mutex);
  cancellation_->calls.insert(&context_);
  if (cancellation_->cancelled) context_.TryCancel();
}

Call::~Call() {
  if (!cancellation_) return;
  std::lock_guard lock(cancellation_->mutex);
  cancellation_->calls.erase(&context_);
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

Client::Connection::Connection(std::shared_ptr<grpc::Channel> shared, ClientOptions chosen)
    : channel(std::move(shared)), options(std::move(chosen)) {
  methods = quant::v1::MethodService::NewStub(channel);
  quantization = quant::v1::QuantizationService::NewStub(channel);
  operations = google::longrunning::Operations::NewStub(channel);
  models = quant::v1::ModelService::NewStub(channel);
  inference = quant::v1::InferenceService::NewStub(channel);
  evaluation = quant::v1::EvaluationService::NewStub(channel);
}

Client::Client(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  if (options.address.empty()) return absl::InvalidArgumentError("the server address is empty");
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("a client certificate needs its key, and the reverse");
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  if (options.max_attempts > 1) arguments.SetServiceConfigJSON(ServiceConfig(options.max_attempts));
  return FromChannel(grpc::CreateCustomChannel(options.address, Credentials(options), arguments),
                     options);
}

std::unique_ptr<Client> Client::FromChannel(std::shared_ptr<grpc::Channel> channel,
                                            const ClientOptions& options) {
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Connection>(std::move(channel), options)));
}

absl::Status Client::WaitReady(absl::Duration timeout) {
  if (connection_->channel->WaitForConnected(absl::ToChronoTime(absl::Now() + timeout))) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat("no server answers at ", connection_->options.address));
}

}  // namespace quantd
