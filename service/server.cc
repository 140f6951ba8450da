#include "service/server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/cpu_quota.h"
#include "core/parallel.h"
#include "service/context.h"
#include "service/credentials.h"
#include "service/handlers/handlers.h"
#include "service/log.h"
#include "service/operation_records.h"
#include "service/process.h"
#include "service/self_probe.h"
#include "service/status.h"
#include "service/version.h"

namespace quantd {
namespace {

double KvUsage(const ModelMemory& memory) {
  if (memory.kv_bytes_full == 0) return 0;  // an encoder
  // Caches of logits requests come on top of those of running sequences.
  return std::min(
      1.0, static_cast<double>(memory.kv_bytes_in_use) / static_cast<double>(memory.kv_bytes_full));
}

using Clock = std::chrono::steady_clock;

constexpr char kInferenceHealth[] = "inference.GRPCInferenceService";
constexpr const char* kServiceNames[] = {
    "quant.v1.MethodService",    "quant.v1.QuantizationService", "quant.v1.ModelService",
    "quant.v1.InferenceService", "quant.v1.EvaluationService",   "google.longrunning.Operations"};

// Threads that wait for models' schedulers; the schedulers themselves batch.
constexpr int kInferenceThreads = 32;

void SetChannelArguments(const ServerConfig& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);  // handlers keep to max_response_bytes
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 100);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 15 * 60'000);
  if (!config.is_local()) {
    // Clients notice new replicas and renewed certificates; streams get an hour to end.
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 60 * 60'000);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 60 * 60'000);
  }
}

class ServerImpl final : public Server {
 public:
  explicit ServerImpl(const ServerConfig& config) { services_.config = config; }
  ~ServerImpl() override {
    Shutdown([] { return true; });
    services_.metrics.Stop();
    services_.timer.Stop();
  }

  absl::Status Open();
  int port() const override { return port_; }
  int metrics_port() const override { return services_.metrics.port(); }
  std::shared_ptr<grpc::Channel> InProcessChannel() override;
  void Shutdown(const std::function<bool()>& hurry) override;
  bool healthy() const override { return probe_ == nullptr || probe_->healthy(); }

 private:
  absl::Status MakeContext();
  absl::Status Listen();
  void PublishHealth();
  void OnModelChange(const std::string& name, bool ready);
  MetricsSnapshot Snapshot() const;
  void Sweep();
  bool Idle() const {
    return services_.active_calls == 0 && services_.operations->counts().running == 0;
  }

  ServiceContext services_;
  std::vector<std::unique_ptr<grpc::Service>> handlers_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<SelfProbe> probe_;
  std::mutex health_mutex_;
  int port_ = 0;
};

// gRPC's own lines join ours instead of going to standard error as they are.
void LogGrpc(gpr_log_func_args* line) {
  Log(line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kInfo : LogLevel::kDebug, "grpc",
      {{"message", line->message}});
}

absl::Status ServerImpl::Open() {
  gpr_set_log_function(LogGrpc);
  RETURN_IF_ERROR(CheckConfig(services_.config));
  RETURN_IF_ERROR(MakeContext());
  RETURN_IF_ERROR(Listen());
  if (services_.config.has_metrics()) {
    RETURN_IF_ERROR(
        services_.metrics.Serve(services_.config.metrics_listen, [this] { return Snapshot(); }));
  }
  PublishHealth();
  Sweep();
  return absl::OkStatus();
}

absl::Status ServerImpl::MakeContext() {
  const ServerConfig& config = services_.config;
  ASSIGN_OR_RETURN(services_.root, ModelRoot::Open(config.model_root));
  if (!config.auth_token_file.empty()) {
    ASSIGN_OR_RETURN(services_.tokens, TokenTable::ReadFile(config.auth_token_file));
  }
  SetComputeThreads(config.threads);
  services_.memory_limit = config.memory_limit != 0
                               ? config.memory_limit
                               : CgroupMemoryLimit().value_or(PhysicalMemory());
  services_.records = NewOperationRecords(services_.root);
  OperationStore::Options operations;
  operations.max_queued = config.max_queued_operations;
  operations.retention = absl::Hours(config.operation_retention_hours);
  operations.records = services_.records.get();
  operations.on_done = [this](const OperationSnapshot& operation) {
    services_.metrics.JobDone(operation.subject.verb, StateName(operation.state),
                              absl::ToDoubleSeconds(operation.elapsed),
                              operation.progress.tensors_done, operation.progress.bytes_done,
                              operation.report ? operation.report->output_bytes : 0);
    Log(LogLevel::kInfo, "operation",
        {{"operation", operation.name},
         {"verb", operation.subject.verb},
         {"model", operation.subject.model},
         {"output", operation.subject.output_name},
         {"state", std::string(StateName(operation.state))},
         {"seconds", absl::ToDoubleSeconds(operation.elapsed)},
         {"message", std::string(operation.status.message())}});
  };
  services_.operations = std::make_unique<OperationStore>(std::move(operations));
  const int queued = config.max_queued_requests;
  services_.repository =
      std::make_unique<ModelRepository>(services_.root, services_.memory_limit, queued);
  services_.control = std::make_unique<WorkerPool>("control", 4, queued);
  services_.inference = std::make_unique<WorkerPool>("inference", kInferenceThreads, queued);
  services_.tensors = std::make_unique<WorkerPool>("tensors", 1, 16);
  services_.evaluation = std::make_unique<WorkerPool>("evaluation", 1, 16);
  return absl::OkStatus();
}

absl::Status ServerImpl::Listen() {
  const ServerConfig& config = services_.config;
  ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(config));
  if (config.reflection == "on" || (config.reflection == "auto" && config.is_local())) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  }
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  SetChannelArguments(config, builder);
  if (!config.listen.empty()) {
    builder.AddListeningPort(config.listen, credentials, &port_);
  }
  for (const auto make :
       {NewMethodService, NewQuantizationService, NewOperationsService, NewModelService,
        NewInferenceService, NewEvaluationService, NewOpenInferenceService}) {
    handlers_.push_back(make(services_));
    builder.RegisterService(handlers_.back().get());
  }
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || (!config.listen.empty() && port_ == 0)) {
    server_.reset();
    return absl::UnavailableError(
        absl::StrCat("--listen ", Shown(config.listen), ": cannot listen there (address in use?)"));
  }
  if (config.self_probe && !config.listen.empty()) {
    const bool is_unix = absl::StartsWith(config.listen, "unix:");
    probe_ = std::make_unique<SelfProbe>(
        is_unix ? config.listen
                : absl::StrCat(config.listen.substr(0, config.listen.rfind(':')), ":", port_));
  }
  return absl::OkStatus();
}

void ServerImpl::PublishHealth() {
  services_.repository->OnChange(
      [this](const std::string& name, bool ready) { OnModelChange(name, ready); });
  std::lock_guard lock(health_mutex_);
  auto* health = server_->GetHealthCheckService();
  health->SetServingStatus(true);
  for (const char* name : kServiceNames) {
    health->SetServingStatus(name, true);
  }
  health->SetServingStatus(kInferenceHealth, false);
}

void ServerImpl::OnModelChange(const std::string& name, bool ready) {
  std::lock_guard lock(health_mutex_);
  if (!services_.draining) {
    auto* health = server_->GetHealthCheckService();
    health->SetServingStatus(absl::StrCat("model:", name), ready);
    health->SetServingStatus(kInferenceHealth, !services_.repository->LoadedNames().empty());
  }
  Log(LogLevel::kInfo, ready ? "model ready" : "model unloading", {{"model", name}});
}

MetricsSnapshot ServerImpl::Snapshot() const {
  MetricsSnapshot out;
  for (const std::string& name : services_.repository->LoadedNames()) {
    const ModelEntry entry = services_.repository->Get(name);
    if (entry.model == nullptr) {
      continue;
    }
    const ModelMemory memory = entry.model->memory();
    const Model::Activity activity = entry.model->activity();
    out.models.push_back({.model = name,
                          .quantization = entry.model->quantization(),
                          .weight_bytes = memory.weight_bytes,
                          .kv_bytes = memory.kv_bytes,
                          .kv_usage = KvUsage(memory),
                          .running = activity.running,
                          .queued = activity.queued,
                          .batches = activity.batches});
  }
  const OperationStore::Counts jobs = services_.operations->counts();
  out.jobs_queued = jobs.queued;
  out.jobs_running = jobs.running;
  return out;
}

// Ends idle and stalled streams, again and again.
void ServerImpl::Sweep() {
  services_.streams.CheckAll(services_.draining);
  services_.timer.After(std::chrono::milliseconds(250), [this] { Sweep(); });
}

std::shared_ptr<grpc::Channel> ServerImpl::InProcessChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return server_->InProcessChannel(arguments);
}

void ServerImpl::Shutdown(const std::function<bool()>& hurry) {
  if (server_ == nullptr) {
    return;
  }
  const ServerConfig& config = services_.config;
  const auto hurried = [&hurry] { return hurry != nullptr && hurry(); };
  const auto seconds = [](double value) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
  };
  {
    std::lock_guard lock(health_mutex_);
    services_.draining = true;
    server_->GetHealthCheckService()->SetServingStatus(false);
  }
  Log(LogLevel::kInfo, "draining");
  probe_.reset();
  const double lame_duck = config.lame_duck_seconds >= 0 ? config.lame_duck_seconds
                           : config.is_local()           ? 0
                                                         : 5;
  const Clock::time_point open_until = Clock::now() + seconds(lame_duck);
  const Clock::time_point limit = open_until + seconds(config.drain_grace_seconds);
  services_.operations->Drain();
  services_.repository->Drain(absl::Now() + absl::FromChrono(limit - Clock::now()));
  while (!hurried() && Clock::now() < limit && (Clock::now() < open_until || !Idle())) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  services_.repository->Drain(absl::InfinitePast());
  services_.streams.ExpireAll();
  // What Expire ended needs a moment to go out; the rest is cut.
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  server_->Wait();
  server_.reset();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config) {
  auto server = std::make_unique<ServerImpl>(config);
  RETURN_IF_ERROR(server->Open());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace quantd
