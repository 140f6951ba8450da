#include "absl/time/clock.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "service/handlers/handlers.h"
#include "service/messages.h"
#include "service/status.h"
#include "service/unary.h"

namespace quantd {
namespace {

namespace lro = google::longrunning;

// A WaitOperation call: answers at the operation's end or when its time is over.
class Waiting : public std::enable_shared_from_this<Waiting> {
 public:
  Waiting(UnaryCallPtr call, std::string name, lro::Operation* response)
      : call_(std::move(call)), name_(std::move(name)), response_(response) {}

  void Start(Timer::Clock::duration timeout) {
    ServiceContext& services = call_->services();
    // The callback runs under the watcher's lock: it only asks the timer's thread to look.
    auto handle =
        services.operations->Watch(name_, [weak = weak_from_this(), &timer = services.timer] {
          timer.After({}, [weak] {
            if (const auto self = weak.lock()) {
              self->Look(false);
            }
          });
        });
    if (!handle.ok()) {
      call_->Finish(handle.status());
      return;
    }
    handle_ = *std::move(handle);
    {
      std::lock_guard lock(mutex_);
      // This closure keeps the object alive while it waits.
      timeout_ = services.timer.After(timeout, [self = shared_from_this()] { self->Look(true); });
    }
    call_->OnCancelled([weak = weak_from_this()] {
      if (const auto self = weak.lock()) {
        self->Stop();
      }
    });
    Look(false);
  }

 private:
  void Look(bool time_is_over) {
    const auto operation = call_->services().operations->Get(name_);
    if (!operation.ok() || operation->done() || time_is_over || call_->services().draining) {
      Stop();
      call_->Finish(operation.status(), [&] { *response_ = ToMessage(*operation); });
    }
  }

  void Stop() {
    std::lock_guard lock(mutex_);
    call_->services().timer.Cancel(timeout_);
  }

  const UnaryCallPtr call_;
  const std::string name_;
  lro::Operation* const response_;
  OperationStore::WatchHandle handle_;
  std::mutex mutex_;
  Timer::Id timeout_;
};

class OperationHandlers final : public lro::Operations::CallbackService {
 public:
  explicit OperationHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* ListOperations(grpc::CallbackServerContext* context,
                                           const lro::ListOperationsRequest* request,
                                           lro::ListOperationsResponse* response) override {
    return RunUnary(
        services_, context, "google.longrunning.Operations/ListOperations", Access::kRead,
        *services_.control, [this, request, response](UnaryCall&) -> absl::Status {
          if (!request->name().empty() && request->name() != "operations") {
            return FieldError("name", "must be \"operations\"");
          }
          ASSIGN_OR_RETURN(const auto page,
                           services_.operations->List(request->filter(), request->page_size(),
                                                      request->page_token()));
          for (const OperationSnapshot& operation : page.operations) {
            *response->add_operations() = ToMessage(operation);
          }
          response->set_next_page_token(page.next_token);
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* GetOperation(grpc::CallbackServerContext* context,
                                         const lro::GetOperationRequest* request,
                                         lro::Operation* response) override {
    return StartUnary(services_, context, "google.longrunning.Operations/GetOperation",
                      Access::kRead, [&](const UnaryCallPtr& call) {
                        const auto operation = services_.operations->Get(request->name());
                        call->Finish(operation.status(),
                                     [&] { *response = ToMessage(*operation); });
                      });
  }

  grpc::ServerUnaryReactor* DeleteOperation(grpc::CallbackServerContext* context,
                                            const lro::DeleteOperationRequest* request,
                                            google::protobuf::Empty*) override {
    return StartUnary(services_, context, "google.longrunning.Operations/DeleteOperation",
                      Access::kAdmin, [&](const UnaryCallPtr& call) {
                        call->Finish(services_.operations->Delete(request->name()));
                      });
  }

  grpc::ServerUnaryReactor* CancelOperation(grpc::CallbackServerContext* context,
                                            const lro::CancelOperationRequest* request,
                                            google::protobuf::Empty*) override {
    return StartUnary(services_, context, "google.longrunning.Operations/CancelOperation",
                      Access::kAdmin, [&](const UnaryCallPtr& call) {
                        call->Finish(services_.operations->Cancel(request->name()));
                      });
  }

  grpc::ServerUnaryReactor* WaitOperation(grpc::CallbackServerContext* context,
                                          const lro::WaitOperationRequest* request,
                                          lro::Operation* response) override {
    return StartUnary(
        services_, context, "google.longrunning.Operations/WaitOperation", Access::kRead,
        [&](const UnaryCallPtr& call) {
          // Without a timeout, up to shortly before the call's deadline; an hour if it has none.
          absl::Duration timeout =
              std::min(absl::Hours(1), call->deadline() - absl::Now() - absl::Milliseconds(50));
          if (request->has_timeout()) {
            if (request->timeout().seconds() < 0 || request->timeout().nanos() < 0) {
              call->Finish(FieldError("timeout", "must not be negative"));
              return;
            }
            timeout = std::min(timeout, absl::Seconds(request->timeout().seconds()) +
                                            absl::Nanoseconds(request->timeout().nanos()));
          }
          timeout = std::max(timeout, absl::ZeroDuration());
          std::make_shared<Waiting>(call, request->name(), response)
              ->Start(absl::ToChronoNanoseconds(timeout));
        });
  }

 private:
  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewOperationsService(ServiceContext& services) {
  return std::make_unique<OperationHandlers>(services);
}

}  // namespace quantd
