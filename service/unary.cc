#include "service/unary.h"

#include <new>

#include "absl/time/clock.h"

namespace quantd {

class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit UnaryReactor(UnaryCallPtr call) : call_(std::move(call)) { call_->reactor_ = this; }

  void OnCancel() override {
    call_->set_cancelled();
    std::function<void()> callback;
    {
      std::lock_guard lock(call_->mutex_);
      callback = std::move(call_->on_cancelled_);
      call_->on_cancelled_ = nullptr;
    }
    if (callback) {
      callback();
    }
    if (!call_->busy_) {
      call_->Finish(absl::CancelledError("the client cancelled the call"));
    }
  }

  void OnDone() override { delete this; }

 private:
  const UnaryCallPtr call_;
};

bool UnaryCall::Finish(const absl::Status& status, absl::FunctionRef<void()> fill) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) {
      return false;
    }
    finished_ = true;
    on_cancelled_ = nullptr;
  }
  if (status.ok()) {
    fill();
  }
  const absl::Status sent = status.ok() || !cancelled() ? status
                            : deadline() <= absl::Now()
                                ? absl::DeadlineExceededError("the deadline passed")
                                : absl::CancelledError("the client cancelled the call");
  reactor_->Finish(End(sent));  // the reactor and the context may be gone after this
  return true;
}

void UnaryCall::OnCancelled(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (finished_) {
      return;
    }
    if (!cancelled()) {
      on_cancelled_ = std::move(callback);
      return;
    }
  }
  callback();
}

grpc::ServerUnaryReactor* StartUnary(ServiceContext& services, grpc::CallbackServerContext* context,
                                     const char* method, Access access,
                                     absl::FunctionRef<void(const UnaryCallPtr&)> start) {
  auto call = std::make_shared<UnaryCall>(services, context, method);
  auto* reactor = new UnaryReactor(call);
  if (const absl::Status admitted = call->Admit(access); !admitted.ok()) {
    call->Finish(admitted);
  } else {
    start(call);
  }
  return reactor;
}

grpc::ServerUnaryReactor* RunUnary(ServiceContext& services, grpc::CallbackServerContext* context,
                                   const char* method, Access access, WorkerPool& pool,
                                   std::function<absl::Status(UnaryCall&)> work) {
  return StartUnary(services, context, method, access, [&](const UnaryCallPtr& call) {
    const absl::Status queued = pool.Submit([call, work = std::move(work)] {
      call->set_busy();
      if (call->cancelled()) {
        call->Finish(absl::CancelledError("the client cancelled the call"));
        return;
      }
      absl::Status status;
      try {
        status = work(*call);
      } catch (const std::bad_alloc&) {
        status = absl::ResourceExhaustedError("not enough memory for this request");
      }
      call->Finish(status);
    });
    if (!queued.ok()) {
      call->Finish(queued);
    }
  });
}

}  // namespace quantd
