#include "inference/grpc_service.grpc.pb.h"
#include "service/handlers/handlers.h"
#include "service/handlers/infer_stream.h"
#include "service/log.h"
#include "service/open_inference/description.h"
#include "service/open_inference/inference.h"
#include "service/open_inference/repository_requests.h"
#include "service/status.h"
#include "service/unary.h"
#include "service/version.h"

namespace quantd {
namespace {

namespace oip = inference;

#define OIP_METHOD(name) "inference.GRPCInferenceService/" name

// The answer of a ModelInfer call.
class UnaryReply final : public InferReply {
 public:
  UnaryReply(UnaryCallPtr call, oip::ModelInferResponse* response)
      : call_(std::move(call)), response_(response) {}
  bool Push(oip::ModelInferResponse response) override {
    answer_ = std::move(response);
    return !call_->cancelled();
  }
  void Finish(const absl::Status& status) override {
    call_->Finish(status, [this] { *response_ = std::move(answer_); });
  }

 private:
  const UnaryCallPtr call_;
  oip::ModelInferResponse* const response_;
  oip::ModelInferResponse answer_;
};

class OpenInferenceHandlers final : public oip::GRPCInferenceService::CallbackService {
 public:
  explicit OpenInferenceHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const oip::ServerLiveRequest*,
                                       oip::ServerLiveResponse* response) override {
    return Reply(context, OIP_METHOD("ServerLive"), Access::kPublic, [&] {
      response->set_live(true);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const oip::ServerReadyRequest*,
                                        oip::ServerReadyResponse* response) override {
    return Reply(context, OIP_METHOD("ServerReady"), Access::kPublic, [&] {
      response->set_ready(!services_.draining);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const oip::ModelReadyRequest* request,
                                       oip::ModelReadyResponse* response) override {
    return Reply(context, OIP_METHOD("ModelReady"), Access::kRead, [&] {
      const bool version = request->version().empty() || request->version() == kModelVersion;
      response->set_ready(version &&
                          services_.repository->Get(request->name()).state == ModelState::kReady);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const oip::ServerMetadataRequest*,
                                           oip::ServerMetadataResponse* response) override {
    return Reply(context, OIP_METHOD("ServerMetadata"), Access::kRead, [&] {
      response->set_name("quantd");
      response->set_version(kVersion);
      for (const char* extension : {"classification", "model_repository", "model_configuration",
                                    "binary_tensor_data", "parameters", "statistics", "logging"}) {
        response->add_extensions(extension);
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const oip::ModelMetadataRequest* request,
                                          oip::ModelMetadataResponse* response) override {
    return Reply(context, OIP_METHOD("ModelMetadata"), Access::kRead, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto lease,
                       AcquireForInference(services_, request->name(), request->version()));
      FillMetadata(request->name(), lease->model(), *response);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ModelConfig(grpc::CallbackServerContext* context,
                                        const oip::ModelConfigRequest* request,
                                        oip::ModelConfigResponse* response) override {
    return Reply(context, OIP_METHOD("ModelConfig"), Access::kRead, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto lease,
                       AcquireForInference(services_, request->name(), request->version()));
      FillConfig(request->name(), lease->model(), *response->mutable_config());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ModelStatistics(grpc::CallbackServerContext* context,
                                            const oip::ModelStatisticsRequest* request,
                                            oip::ModelStatisticsResponse* response) override {
    return Reply(context, OIP_METHOD("ModelStatistics"), Access::kRead, [&]() -> absl::Status {
      std::vector<std::string> names = {request->name()};
      if (request->name().empty()) {
        names = services_.repository->LoadedNames();
      }
      for (const std::string& name : names) {
        const auto lease = AcquireForInference(services_, name, request->version());
        if (lease.ok()) {
          FillStatistics(name, (*lease)->model(), services_.statistics.Get(name),
                         *response->add_model_stats());
        } else if (!request->name().empty()) {
          return lease.status();
        }
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const oip::ModelInferRequest* request,
                                       oip::ModelInferResponse* response) override {
    return StartUnary(services_, context, OIP_METHOD("ModelInfer"), Access::kInfer,
                      [&](const UnaryCallPtr& call) {
                        call->set_model(request->model_name());
                        InferCall infer;
                        // The call's objects go when it is finished, which a cancellation may do
                        // first.
                        infer.request = std::make_shared<const oip::ModelInferRequest>(
                            std::move(*const_cast<oip::ModelInferRequest*>(request)));
                        infer.deadline = call->deadline();
                        infer.cancelled = call->cancelled_flag();
                        infer.reply = std::make_shared<UnaryReply>(call, response);
                        const absl::Status queued = services_.inference->Submit(
                            [this, infer = std::move(infer)] { Infer(services_, infer); });
                        if (!queued.ok()) {
                          call->Finish(queued);
                        }
                      });
  }

  grpc::ServerBidiReactor<oip::ModelInferRequest, oip::ModelStreamInferResponse>* ModelStreamInfer(
      grpc::CallbackServerContext* context) override {
    auto stream = std::make_shared<InferStream>(services_, context);
    stream->Begin();
    return stream.get();
  }

  grpc::ServerUnaryReactor* RepositoryIndex(grpc::CallbackServerContext* context,
                                            const oip::RepositoryIndexRequest* request,
                                            oip::RepositoryIndexResponse* response) override {
    return RunUnary(services_, context, OIP_METHOD("RepositoryIndex"), Access::kRead,
                    *services_.control, [this, request, response](UnaryCall&) {
                      FillIndex(services_, request->ready(), *response);
                      return absl::OkStatus();
                    });
  }

  grpc::ServerUnaryReactor* RepositoryModelLoad(
      grpc::CallbackServerContext* context, const oip::RepositoryModelLoadRequest* request,
      oip::RepositoryModelLoadResponse* response) override {
    return StartUnary(services_, context, OIP_METHOD("RepositoryModelLoad"), Access::kAdmin,
                      [&](const UnaryCallPtr& call) {
                        const absl::Status queued =
                            services_.control->Submit([this, call, request = *request, response] {
                              const std::string name = ModelNameOf(request);
                              call->set_model(name);
                              const auto settings = SettingsFrom(request, services_.config);
                              if (!settings.ok()) {
                                call->Finish(settings.status());
                                return;
                              }
                              services_.repository->Load(
                                  name, *settings, call->cancelled_flag(),
                                  [call, name, response](const absl::Status& status) {
                                    call->Finish(status, [&] {
                                      response->set_model_name(name);
                                      response->set_isloaded(true);
                                    });
                                  });
                            });
                        if (!queued.ok()) {
                          call->Finish(queued);
                        }
                      });
  }

  grpc::ServerUnaryReactor* RepositoryModelUnload(
      grpc::CallbackServerContext* context, const oip::RepositoryModelUnloadRequest* request,
      oip::RepositoryModelUnloadResponse* response) override {
    return StartUnary(services_, context, OIP_METHOD("RepositoryModelUnload"), Access::kAdmin,
                      [&](const UnaryCallPtr& call) {
                        const std::string name = ModelNameOf(*request);
                        call->set_model(name);
                        services_.repository->Unload(name,
                                                     [call, name, response](const auto& bytes) {
                                                       call->Finish(bytes.status(), [&] {
                                                         response->set_model_name(name);
                                                         response->set_isunloaded(true);
                                                       });
                                                     });
                      });
  }

  grpc::ServerUnaryReactor* LogSettings(grpc::CallbackServerContext* context,
                                        const oip::LogSettingsRequest* request,
                                        oip::LogSettingsResponse* response) override {
    const Access access = request->settings().empty() ? Access::kRead : Access::kAdmin;
    return Reply(context, OIP_METHOD("LogSettings"), access, [&]() -> absl::Status {
      RETURN_IF_ERROR(ApplyLogSettings(*request));
      FillLogSettings(*response);
      return absl::OkStatus();
    });
  }

 private:
  // For what needs no other thread.
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const char* method,
                                  Access access, absl::FunctionRef<absl::Status()> answer) {
    return StartUnary(services_, context, method, access,
                      [&](const UnaryCallPtr& call) { call->Finish(answer()); });
  }

  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewOpenInferenceService(ServiceContext& services) {
  return std::make_unique<OpenInferenceHandlers>(services);
}

}  // namespace quantd
