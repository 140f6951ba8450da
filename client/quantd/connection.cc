#include "client/quantd/connection.h"

#include <algorithm>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace quantd {
namespace {

constexpr char kServiceConfig[] = R"({"loadBalancingConfig":[{"round_robin":{}}]})";

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

std::shared_ptr<grpc::ChannelCredentials> Credentials(const ClientOptions& options) {
  if (options.tls_ca.empty() && options.tls_cert.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  return grpc::SslCredentials({options.tls_ca, options.tls_key, options.tls_cert});
}

int ToMilliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

// What gRPC says itself of a call whose server stopped; quantd's own CANCELLED say why.
bool IsCutOff(const absl::Status& status) {
  return absl::IsCancelled(status) && (status.message() == "CANCELLED" ||
                                       absl::StartsWith(status.message(), "Received RST_STREAM"));
}

// Between half of `pause` and all of it: the clients of a server that comes back do not all call in
// the same moment.
absl::Duration Varied(absl::Duration pause) {
  static thread_local std::minstd_rand random(std::random_device{}());
  return pause * std::uniform_real_distribution<double>(0.5, 1)(random);
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

Attempts::Attempts(const Link& link, const CallOptions& options,
                   std::shared_ptr<Cancellation::State> cancellation)
    : link_(link),
      options_(options),
      cancellation_(std::move(cancellation)),
      deadline_(absl::Now() + options.timeout) {
  Restart();
}

void Attempts::Restart() {
  give_up_ = absl::Now() + link_.options.retry_for;
  pause_ = kFirstPause;
}

CallOptions Attempts::Rest() const {
  CallOptions rest = options_;
  if (deadline_ != absl::InfiniteFuture()) rest.timeout = deadline_ - absl::Now();
  return rest;
}

bool Attempts::cancelled() const {
  if (!cancellation_) return false;
  std::lock_guard lock(cancellation_->mutex);
  return cancellation_->cancelled;
}

bool Attempts::Again(absl::Status& status) {
  if (IsCutOff(status) && !cancelled()) {
    status = absl::UnavailableError("the server ended the call: it is shutting down");
  }
  if (!absl::IsUnavailable(status)) return false;
  const absl::Time now = absl::Now();
  if (now >= give_up_) return false;
  const absl::Time until = std::min({now + Varied(pause_), give_up_, deadline_});
  pause_ = std::min(2 * pause_, kLongestPause);
  Pause(until);
  return true;  // an attempt after a cancellation or the deadline ends with the status of these
}

// Or until the channel has a connection again.
void Attempts::Pause(absl::Time until) const {
  const bool connected = link_.MayAnswer();
  while (!cancelled() && absl::Now() < until) {
    const absl::Time slice = std::min(until, absl::Now() + absl::Milliseconds(20));
    const grpc_connectivity_state state =
        link_.has_state ? link_.channel.GetState(true) : GRPC_CHANNEL_READY;
    if (state == GRPC_CHANNEL_READY) {
      if (!connected) return;
      absl::SleepFor(slice - absl::Now());
    } else {
      // Waiting in gRPC: connections make no progress while no thread is.
      link_.channel.WaitForStateChange(state, absl::ToChronoTime(slice));
    }
  }
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::string NewRequestId() {
  std::random_device random;
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

Client::Connection::Connection(std::shared_ptr<grpc::Channel> shared, ClientOptions chosen,
                               bool state)
    : channel(std::move(shared)), options(std::move(chosen)), has_state(state) {
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
  arguments.SetServiceConfigJSON(kServiceConfig);
  // gRPC's own pauses between connections grow to two minutes: a server that is back would be
  // noticed long after.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, ToMilliseconds(kFirstPause));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, ToMilliseconds(kLongestPause));
  auto channel = grpc::CreateCustomChannel(options.address, Credentials(options), arguments);
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Connection>(std::move(channel), options, true)));
}

std::unique_ptr<Client> Client::FromChannel(std::shared_ptr<grpc::Channel> channel,
                                            const ClientOptions& options) {
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Connection>(std::move(channel), options, false)));
}

absl::Status Client::WaitReady(absl::Duration timeout) {
  if (!connection_->has_state ||
      connection_->channel->WaitForConnected(absl::ToChronoTime(absl::Now() + timeout))) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat("no server answers at ", connection_->options.address));
}

}  // namespace quantd
