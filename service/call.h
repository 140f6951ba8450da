// The door of every call: credentials, draining, request id, metrics and one log line at the end.
#ifndef QUANTD_SERVICE_CALL_H_
#define QUANTD_SERVICE_CALL_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "service/context.h"

namespace quantd {

class Call {
 public:
  // `method` as in the HTTP/2 path, a literal.
  Call(ServiceContext& services, grpc::CallbackServerContext* context, const char* method);

  // Before anything of the request is looked at: UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE
  // while draining (except kPublic), DEADLINE_EXCEEDED when the deadline is over.
  absl::Status Admit(Access needed) const;

  ServiceContext& services() const { return services_; }
  grpc::CallbackServerContext* context() const { return context_; }
  const std::string& request_id() const { return request_id_; }
  absl::Time deadline() const { return deadline_; }
  // A model's name for the log line.
  void set_model(const std::string& model) { model_ = model; }

  // Shared with work that outlives the call's objects.
  std::shared_ptr<const std::atomic<bool>> cancelled_flag() const { return cancelled_; }
  bool cancelled() const { return *cancelled_; }
  void set_cancelled() { *cancelled_ = true; }

  // Counts and logs the call, and gives the status to finish with. Once.
  grpc::Status End(const absl::Status& status);

 private:
  ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  const char* const method_;
  const std::chrono::steady_clock::time_point start_;
  const absl::Time deadline_;
  std::string request_id_;
  std::string model_;
  std::shared_ptr<std::atomic<bool>> cancelled_;
};

// The value of a metadata key, "" when absent.
absl::string_view MetadataValue(const grpc::ServerContextBase& context, const char* key);

}  // namespace quantd

#endif  // QUANTD_SERVICE_CALL_H_
