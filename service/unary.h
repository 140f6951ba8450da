// Unary calls on the asynchronous API: the reaction only queues; work runs on a pool or is finished
// by whoever completes it; Finish happens exactly once.
#ifndef QUANTD_SERVICE_UNARY_H_
#define QUANTD_SERVICE_UNARY_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/functional/function_ref.h"
#include "service/call.h"

namespace quantd {

// A unary call in progress. Shared by the reactor and by whatever will finish it.
class UnaryCall : public Call {
 public:
  UnaryCall(ServiceContext& services, grpc::CallbackServerContext* context, const char* method)
      : Call(services, context, method) {}

  // The first one wins; later ones do nothing and return false. `fill` runs before the reply is
  // sent, only for the winner: the response may be written nowhere else.
  bool Finish(
      const absl::Status& status, absl::FunctionRef<void()> fill = [] {});

  // Runs once when the client cancels or its deadline passes; at once if that has happened.
  void OnCancelled(std::function<void()> callback);

  // For work that writes the response while it runs: `true` keeps Finish for its end.
  void set_busy() { busy_ = true; }

 private:
  friend class UnaryReactor;
  std::mutex mutex_;
  bool finished_ = false;
  std::atomic<bool> busy_{false};
  grpc::ServerUnaryReactor* reactor_ = nullptr;
  std::function<void()> on_cancelled_;
};

using UnaryCallPtr = std::shared_ptr<UnaryCall>;

// `start` may finish the call at once or keep the pointer and finish it later. It runs in a
// reaction: it must not block.
grpc::ServerUnaryReactor* StartUnary(ServiceContext& services, grpc::CallbackServerContext* context,
                                     const char* method, Access access,
                                     absl::FunctionRef<void(const UnaryCallPtr&)> start);

// `work` runs on `pool` and its status finishes the call. It may fill the response directly.
// Nothing is done for a client that left before its turn came.
grpc::ServerUnaryReactor* RunUnary(ServiceContext& services, grpc::CallbackServerContext* context,
                                   const char* method, Access access, WorkerPool& pool,
                                   std::function<absl::Status(UnaryCall&)> work);

}  // namespace quantd

#endif  // QUANTD_SERVICE_UNARY_H_
