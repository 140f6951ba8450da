#include "quant/v1/models.grpc.pb.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/cpu_quota.h"
#include "core/parallel.h"
#include "service/handlers/handlers.h"
#include "service/inspect.h"
#include "service/messages.h"
#include "service/process.h"
#include "service/status.h"
#include "service/unary.h"
#include "service/version.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

absl::StatusOr<LoadSettings> SettingsFrom(const pb::LoadModelRequest& request,
                                          const ServerConfig& config) {
  LoadSettings settings;
  settings.device = request.device().empty() ? config.device : request.device();
  switch (request.compute()) {
    case pb::COMPUTE_UNSPECIFIED:
    case pb::COMPUTE_FAST:
      settings.compute = Compute::kFast;
      break;
    case pb::COMPUTE_EXACT:
      settings.compute = Compute::kExact;
      break;
    default:
      return FieldError("compute", absl::StrCat("unknown value ", request.compute()));
  }
  settings.quantize_activations = request.quantize_activations();
  if (request.context_length() < 0) {
    return FieldError("context_length", "must not be negative");
  }
  if (request.max_sequences() < 0 || request.max_sequences() > 1024) {
    return FieldError("max_sequences", "must be between 0 and 1024");
  }
  settings.context_length = request.context_length();
  settings.max_sequences =
      request.max_sequences() == 0 ? config.max_sequences : request.max_sequences();
  if (request.has_quantize()) {
    ASSIGN_OR_RETURN(settings.recipe, RecipeFromMessage(request.quantize()));
    if (!request.quantize().method().empty()) {
      ASSIGN_OR_RETURN(const Method* method, FindMethod(request.quantize().method()));
      if (!method->on_the_fly) {
        return FieldError("quantize", absl::StrCat("method ", method->name,
                                                   " needs calibration: quantize the checkpoint "
                                                   "first, then load the result"));
      }
    }
    if (settings.recipe->calibration()) {
      return FieldError("quantize", absl::StrCat("method ", settings.recipe->method(),
                                                 " needs calibration with these options: quantize "
                                                 "the checkpoint first, then load the result"));
    }
    settings.recipe_key = Canonical(request.quantize());
  }
  return settings;
}

class ModelHandlers final : public pb::ModelService::CallbackService {
 public:
  explicit ModelHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const pb::ListModelsRequest* request,
                                       pb::ListModelsResponse* response) override {
    return RunUnary(
        services_, context, "quant.v1.ModelService/ListModels", Access::kRead, *services_.control,
        [this, request, response](UnaryCall& call) { return List(*request, call, *response); });
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const pb::GetModelRequest* request,
                                     pb::Model* response) override {
    return RunUnary(services_, context, "quant.v1.ModelService/GetModel", Access::kRead,
                    *services_.control, [this, request, response](UnaryCall&) -> absl::Status {
                      ASSIGN_OR_RETURN(*response, DescribeModel(services_, request->name()));
                      return absl::OkStatus();
                    });
  }

  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const pb::LoadModelRequest* request,
                                      pb::Model* response) override {
    return StartUnary(services_, context, "quant.v1.ModelService/LoadModel", Access::kAdmin,
                      [&](const UnaryCallPtr& call) {
                        const absl::Status queued =
                            services_.control->Submit([this, call, request = *request, response] {
                              Load(call, request, response);
                            });
                        if (!queued.ok()) {
                          call->Finish(queued);
                        }
                      });
  }

  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const pb::UnloadModelRequest* request,
                                        pb::UnloadModelResponse* response) override {
    return StartUnary(
        services_, context, "quant.v1.ModelService/UnloadModel", Access::kAdmin,
        [&](const UnaryCallPtr& call) {
          call->set_model(request->name());
          services_.repository->Unload(request->name(), [call, response](const auto& bytes) {
            call->Finish(bytes.status(),
                         [&] { response->set_released_bytes(static_cast<int64_t>(*bytes)); });
          });
        });
  }

  grpc::ServerUnaryReactor* InspectModel(grpc::CallbackServerContext* context,
                                         const pb::InspectModelRequest* request,
                                         pb::InspectModelResponse* response) override {
    return RunUnary(services_, context, "quant.v1.ModelService/InspectModel", Access::kRead,
                    *services_.control, [this, request, response](UnaryCall&) {
                      return Inspect(services_, request->name(), *response);
                    });
  }

  grpc::ServerUnaryReactor* GetServerStatus(grpc::CallbackServerContext* context,
                                            const pb::GetServerStatusRequest*,
                                            pb::ServerStatus* response) override {
    return RunUnary(services_, context, "quant.v1.ModelService/GetServerStatus", Access::kRead,
                    *services_.control, [this, response](UnaryCall&) {
                      FillStatus(*response);
                      return absl::OkStatus();
                    });
  }

 private:
  absl::Status List(const pb::ListModelsRequest& request, const UnaryCall& call,
                    pb::ListModelsResponse& response) {
    if (request.page_size() < 0) {
      return FieldError("page_size", "must not be negative");
    }
    const int limit = request.page_size() == 0 ? 100 : std::min(request.page_size(), 1000);
    // A page token is the name after which the page begins: names come in alphabetical order.
    for (const ModelRoot::Entry& entry : services_.root->List()) {
      if (entry.name <= request.page_token() ||
          (request.loaded_only() &&
           services_.repository->Get(entry.name).state != ModelState::kReady)) {
        continue;
      }
      if (response.models_size() == limit) {
        response.set_next_page_token(response.models(limit - 1).name());
        break;
      }
      if (call.cancelled()) {
        return absl::CancelledError("the client cancelled the call");
      }
      auto model = DescribeModel(services_, entry.name);
      if (model.ok()) {  // else it was removed just now
        *response.add_models() = *std::move(model);
      }
    }
    return absl::OkStatus();
  }

  void Load(const UnaryCallPtr& call, const pb::LoadModelRequest& request, pb::Model* response) {
    call->set_model(request.name());
    const auto settings = SettingsFrom(request, services_.config);
    if (!settings.ok()) {
      call->Finish(settings.status());
      return;
    }
    services_.repository->Load(
        request.name(), *settings, call->cancelled_flag(),
        [this, call, response, name = request.name()](const absl::Status& status) {
          auto model =
              status.ok() ? DescribeModel(services_, name) : absl::StatusOr<pb::Model>(status);
          call->Finish(model.status(), [&] { *response = *std::move(model); });
        });
  }

  void FillStatus(pb::ServerStatus& out) {
    out.set_version(kVersion);
    out.set_threads(ComputeThreads());
    out.set_available_cpus(AvailableCpus());
    out.set_memory_limit_bytes(static_cast<int64_t>(services_.memory_limit));
    out.set_resident_bytes(static_cast<int64_t>(ReadProcessFacts().resident_bytes));
    out.set_uptime_seconds(std::chrono::duration_cast<std::chrono::seconds>(
                               std::chrono::steady_clock::now() - services_.start)
                               .count());
    out.set_draining(services_.draining);
    for (const DeviceInfo& device : ListDevices()) {
      pb::Device& row = *out.add_devices();
      row.set_id(device.id);
      row.set_description(Shown(device.description));
      row.set_memory_bytes(static_cast<int64_t>(device.memory_bytes));
      if (device.id == "cpu") {
        out.set_isa(IsaOf(device.description));
      }
    }
    int running = 0;
    const std::vector<std::string> loaded = services_.repository->LoadedNames();
    for (const std::string& name : loaded) {
      if (const auto model = services_.repository->Get(name).model; model != nullptr) {
        running += model->activity().running;
      }
    }
    out.set_loaded_models(static_cast<int32_t>(loaded.size()));
    out.set_running_operations(services_.operations->counts().running);
    out.set_running_sequences(running);
  }

  // "AMD EPYC (avx512: vnni bf16), 2 threads" -> "avx512".
  static std::string IsaOf(absl::string_view description) {
    for (const absl::string_view isa : {"avx512", "avx2"}) {
      if (absl::StrContains(description, isa)) {
        return std::string(isa);
      }
    }
    return "scalar";
  }

  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewModelService(ServiceContext& services) {
  return std::make_unique<ModelHandlers>(services);
}

}  // namespace quantd
