#include "quant/v1/quantization.grpc.pb.h"

#include "absl/strings/str_cat.h"
#include "service/handlers/handlers.h"
#include "service/handlers/operation_watch.h"
#include "service/messages.h"
#include "service/quantize_request.h"
#include "service/status.h"
#include "service/stream.h"
#include "service/tensor_stream.h"
#include "service/unary.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

// The limit of one request's tensors: they are held in memory, twice while they are worked on.
uint64_t MaxTensorBytes(const ServiceContext& services) {
  const uint64_t most = uint64_t{4} << 30;
  return services.memory_limit == 0 ? most : std::min(most, services.memory_limit / 4);
}

// A stream of one head message and tensors in, tensors out. `Start` is the head's type.
template <class Request>
class TensorCall : public DuplexStream<Request, pb::TensorChunk> {
 public:
  using Base = DuplexStream<Request, pb::TensorChunk>;
  TensorCall(ServiceContext& services, grpc::CallbackServerContext* context, const char* method)
      : Base(services, context, method), assembler_(MaxTensorBytes(services)) {}

  void Begin() {
    this->Open();
    if (const absl::Status status = this->Admit(Access::kAdmin); !status.ok()) {
      this->Close(status);
    } else {
      this->ReadNext();
    }
  }

 protected:
  // Checks the head message; later ones are tensors.
  virtual absl::Status OnHead(const Request& request) = 0;
  // On a worker thread: the result.
  virtual absl::StatusOr<TensorChunker> Work(std::vector<NamedTensor> tensors) = 0;
  bool Busy() const override { return working_; }

 private:
  bool OnMessage(Request& request) override {
    if (const absl::Status status = Take(request); !status.ok()) {
      this->Close(status);
      return false;
    }
    return true;
  }

  absl::Status Take(const Request& request) {
    if (!has_head_) {
      has_head_ = true;
      return OnHead(request);
    }
    if (request.has_tensor()) {
      return assembler_.Begin(request.tensor());
    }
    if (request.part_case() == Request::kData) {
      return assembler_.Append(request.data());
    }
    return absl::InvalidArgumentError(
        "after the first message only tensors and their data may come");
  }

  void OnHalfClose() override {
    if (this->closed()) {
      return;
    }
    auto tensors = assembler_.Finish();
    if (!has_head_ || !tensors.ok()) {
      this->Close(has_head_ ? tensors.status()
                            : absl::InvalidArgumentError("the stream ended before any message"));
      return;
    }
    working_ = true;
    auto self = std::static_pointer_cast<TensorCall>(this->shared_from_this());
    auto shared = std::make_shared<std::vector<NamedTensor>>(*std::move(tensors));
    const absl::Status queued =
        this->services().tensors->Submit([self, shared] { self->Run(std::move(*shared)); });
    if (!queued.ok()) {
      this->Close(queued);
    }
  }

  void Run(std::vector<NamedTensor> tensors) {
    if (this->closed()) {
      return;
    }
    absl::StatusOr<TensorChunker> result =
        absl::ResourceExhaustedError("not enough memory for this request");
    try {
      result = Work(std::move(tensors));
    } catch (const std::bad_alloc&) {
    }
    if (!result.ok()) {
      this->Close(result.status());
      return;
    }
    {
      std::lock_guard lock(sending_);
      chunker_.emplace(*std::move(result));
    }
    OnWritable();
  }

  // Pulls chunks only as fast as they are written.
  void OnWritable() override {
    std::lock_guard lock(sending_);
    pb::TensorChunk chunk;
    while (chunker_.has_value() && this->Ready()) {
      if (!chunker_->Next(chunk)) {
        chunker_.reset();
        this->Close(absl::OkStatus());
      } else if (!this->Push(std::move(chunk))) {
        chunker_.reset();
      }
    }
  }

  TensorAssembler assembler_;
  bool has_head_ = false;
  std::atomic<bool> working_{false};
  std::mutex sending_;
  std::optional<TensorChunker> chunker_;
};

class QuantizeTensorCall final : public TensorCall<pb::QuantizeTensorRequest> {
 public:
  using TensorCall::TensorCall;

 private:
  absl::Status OnHead(const pb::QuantizeTensorRequest& request) override {
    if (!request.has_recipe()) {
      return FieldError("recipe", "must be the first message");
    }
    ASSIGN_OR_RETURN(recipe_, RecipeFromMessage(request.recipe()));
    name_ = request.name();
    return absl::OkStatus();
  }

  absl::StatusOr<TensorChunker> Work(std::vector<NamedTensor> tensors) override {
    std::optional<TensorView> weight, calibration;
    for (const NamedTensor& named : tensors) {
      if (named.name == "weight") weight = named.tensor.view();
      if (named.name == "calibration") calibration = named.tensor.view();
    }
    if (!weight || tensors.size() != (calibration ? 2u : 1u)) {
      return absl::InvalidArgumentError(
          "expected a tensor named `weight` and at most one other, `calibration`");
    }
    ASSIGN_OR_RETURN(const auto recipe, ReadImportance(*services().root, recipe_));
    ASSIGN_OR_RETURN(QuantizedMatrix result, QuantizeMatrix(
                                                 *weight, calibration ? &*calibration : nullptr,
                                                 *recipe, [this] { return closed(); }, name_));
    return TensorChunker(std::move(result.tensors), std::move(result.quantization_config),
                         std::move(result.warnings));
  }

  std::shared_ptr<const Recipe> recipe_;
  std::string name_;
};

class DequantizeTensorCall final : public TensorCall<pb::DequantizeTensorRequest> {
 public:
  using TensorCall::TensorCall;

 private:
  absl::Status OnHead(const pb::DequantizeTensorRequest& request) override {
    if (!request.has_start() || request.start().quantization_config().empty()) {
      return FieldError("start", "must be the first message, with a quantization_config");
    }
    config_ = request.start().quantization_config();
    if (!request.start().dtype().empty()) {
      ASSIGN_OR_RETURN(dtype_, ParseFloatDType("start.dtype", request.start().dtype()));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<TensorChunker> Work(std::vector<NamedTensor> tensors) override {
    ASSIGN_OR_RETURN(Tensor weight, DequantizeMatrix(tensors, config_, dtype_));
    std::vector<NamedTensor> out;
    out.push_back({"weight", std::move(weight)});
    return TensorChunker(std::move(out), "");
  }

  std::string config_;
  std::optional<DType> dtype_;
};

class QuantizationHandlers final : public pb::QuantizationService::CallbackService {
 public:
  explicit QuantizationHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* QuantizeCheckpoint(grpc::CallbackServerContext* context,
                                               const pb::QuantizeCheckpointRequest* request,
                                               google::longrunning::Operation* response) override {
    return RunUnary(services_, context, "quant.v1.QuantizationService/QuantizeCheckpoint",
                    Access::kAdmin, *services_.control, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return Start(*request, PrepareQuantize, *response);
                    });
  }

  grpc::ServerUnaryReactor* DequantizeCheckpoint(
      grpc::CallbackServerContext* context, const pb::DequantizeCheckpointRequest* request,
      google::longrunning::Operation* response) override {
    return RunUnary(services_, context, "quant.v1.QuantizationService/DequantizeCheckpoint",
                    Access::kAdmin, *services_.control, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return Start(*request, PrepareDequantize, *response);
                    });
  }

  grpc::ServerWriteReactor<google::longrunning::Operation>* WatchOperation(
      grpc::CallbackServerContext* context, const pb::WatchOperationRequest* request) override {
    auto watch = std::make_shared<OperationWatch>(services_, context,
                                                  "quant.v1.QuantizationService/WatchOperation");
    watch->Open();
    absl::Status status = watch->Admit(Access::kRead);
    const absl::Duration interval = request->has_interval()
                                        ? absl::Seconds(request->interval().seconds()) +
                                              absl::Nanoseconds(request->interval().nanos())
                                        : absl::Milliseconds(100);
    if (status.ok() && (interval < absl::ZeroDuration() || interval > absl::Hours(1))) {
      status = FieldError("interval", "must be between 0 and 1 hour");
    }
    if (status.ok()) {
      watch->Watch(request->name(), interval);
    } else {
      watch->Close(status);
    }
    return watch.get();
  }

  grpc::ServerBidiReactor<pb::QuantizeTensorRequest, pb::TensorChunk>* QuantizeTensor(
      grpc::CallbackServerContext* context) override {
    auto call = std::make_shared<QuantizeTensorCall>(services_, context,
                                                     "quant.v1.QuantizationService/QuantizeTensor");
    call->Begin();
    return call.get();
  }

  grpc::ServerBidiReactor<pb::DequantizeTensorRequest, pb::TensorChunk>* DequantizeTensor(
      grpc::CallbackServerContext* context) override {
    auto call = std::make_shared<DequantizeTensorCall>(
        services_, context, "quant.v1.QuantizationService/DequantizeTensor");
    call->Begin();
    return call.get();
  }

 private:
  template <class Request, class Prepare>
  absl::Status Start(const Request& request, const Prepare& prepare,
                     google::longrunning::Operation& response) {
    // A repeated request must find its operation even when that has made the output already.
    if (!request.request_id().empty()) {
      ASSIGN_OR_RETURN(const auto known,
                       services_.operations->FindRequest(request.request_id(), Canonical(request)));
      if (known.has_value()) {
        response = ToMessage(*known);
        return absl::OkStatus();
      }
    }
    ASSIGN_OR_RETURN(OperationStore::Request prepared, prepare(services_, request));
    ASSIGN_OR_RETURN(const OperationSnapshot operation,
                     services_.operations->Start(std::move(prepared)));
    response = ToMessage(operation);
    return absl::OkStatus();
  }

  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewQuantizationService(ServiceContext& services) {
  return std::make_unique<QuantizationHandlers>(services);
}

}  // namespace quantd
