// ModelStreamInfer: many requests on one stream, answered as they finish.
#ifndef QUANTD_SERVICE_HANDLERS_INFER_STREAM_H_
#define QUANTD_SERVICE_HANDLERS_INFER_STREAM_H_

#include "service/open_inference/inference.h"
#include "service/open_inference/parameters.h"
#include "service/stream.h"

namespace quantd {

class InferStream final
    : public DuplexStream<inference::ModelInferRequest, inference::ModelStreamInferResponse> {
 public:
  using Base = DuplexStream<inference::ModelInferRequest, inference::ModelStreamInferResponse>;
  // Requests of one stream that may run at once; then no more are read.
  static constexpr int kMaxRunning = 64;

  InferStream(ServiceContext& services, grpc::CallbackServerContext* context)
      : Base(services, context, "inference.GRPCInferenceService/ModelStreamInfer"),
        errors_end_stream_(MetadataValue(*context, "triton_grpc_error") == "true") {}

  void Begin() {
    Open();
    if (const absl::Status status = Admit(Access::kInfer); !status.ok()) {
      Close(status);
    } else {
      ReadNext();
    }
  }

 private:
  class Reply;

  bool OnMessage(inference::ModelInferRequest& message) override {
    InferCall call;
    call.request = std::make_shared<const inference::ModelInferRequest>(std::move(message));
    call.deadline = deadline();
    call.cancelled = cancelled_flag();
    call.streaming = true;
    call.reply = MakeReply(call.request);
    bool more;
    {
      std::lock_guard lock(mutex_);
      more = ++running_ < kMaxRunning;
      paused_ = !more;
    }
    const absl::Status queued = services().inference->Submit(
        [this_services = &services(), call] { Infer(*this_services, call); });
    if (!queued.ok()) {
      call.reply->Finish(queued);
    }
    return more;
  }

  void OnHalfClose() override {
    {
      std::lock_guard lock(mutex_);
      half_closed_ = true;
    }
    MaybeClose();
  }

  bool Busy() const override {
    std::lock_guard lock(mutex_);
    return running_ > 0;
  }

  void RequestDone() {
    bool resume = false;
    {
      std::lock_guard lock(mutex_);
      --running_;
      resume = std::exchange(paused_, false);
    }
    Touch();
    if (resume && !closed()) {
      ReadNext();
    }
    MaybeClose();
  }

  void MaybeClose() {
    {
      std::lock_guard lock(mutex_);
      if (!half_closed_ || running_ > 0) {
        return;
      }
    }
    Close(absl::OkStatus());
  }

  std::shared_ptr<InferReply> MakeReply(
      std::shared_ptr<const inference::ModelInferRequest> request);

  const bool errors_end_stream_;
  mutable std::mutex mutex_;
  int running_ = 0;
  bool paused_ = false;
  bool half_closed_ = false;
};

// The answers of one request of the stream.
class InferStream::Reply final : public InferReply {
 public:
  Reply(std::shared_ptr<InferStream> stream,
        std::shared_ptr<const inference::ModelInferRequest> request)
      : stream_(std::move(stream)), request_(std::move(request)) {}

  bool Push(inference::ModelInferResponse response) override {
    inference::ModelStreamInferResponse message;
    *message.mutable_infer_response() = std::move(response);
    return stream_->Push(std::move(message));
  }
  bool Ready() const override { return stream_->Ready(); }
  void Finish(const absl::Status& status) override {
    if (!status.ok() && stream_->errors_end_stream_) {
      stream_->Close(status);
    } else if (!status.ok()) {
      inference::ModelStreamInferResponse message;
      message.set_error_message(ToGrpcStatus(status).error_message());
      message.mutable_infer_response()->set_id(request_->id());
      stream_->Push(std::move(message));
    }
    stream_->RequestDone();
  }

 private:
  const std::shared_ptr<InferStream> stream_;
  const std::shared_ptr<const inference::ModelInferRequest> request_;
};

inline std::shared_ptr<InferReply> InferStream::MakeReply(
    std::shared_ptr<const inference::ModelInferRequest> request) {
  return std::make_shared<Reply>(std::static_pointer_cast<InferStream>(shared_from_this()),
                                 std::move(request));
}

}  // namespace quantd

#endif  // QUANTD_SERVICE_HANDLERS_INFER_STREAM_H_
