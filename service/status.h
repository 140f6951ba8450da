// The one place where absl::Status becomes grpc::Status.
#ifndef QUANTD_SERVICE_STATUS_H_
#define QUANTD_SERVICE_STATUS_H_

#include <grpcpp/support/status.h>

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/status.h"

namespace google::rpc {
class Status;
}

namespace quantd {

// Attaches a machine-readable cause: google.rpc.ErrorInfo{reason, "quantd", facts}. `reason` is
// UPPER_SNAKE_CASE and stable.
absl::Status WithReason(absl::Status status, absl::string_view reason,
                        const std::map<std::string, std::string>& facts = {});

// INVALID_ARGUMENT with a google.rpc.BadRequest that names the request's field.
absl::Status FieldError(absl::string_view field, absl::string_view description);

// RESOURCE_EXHAUSTED with a google.rpc.RetryInfo.
absl::Status BusyError(absl::string_view message, absl::Duration retry_after);

// Code and message kept; details as google.rpc.Status in `grpc-status-details-bin`. Messages are
// cut and made valid UTF-8, because HTTP/2 trailers are limited.
grpc::Status ToGrpcStatus(const absl::Status& status);
google::rpc::Status ToRpcStatus(const absl::Status& status);

// A text from outside for a message or log line: escaped, at most 200 bytes.
std::string Shown(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_SERVICE_STATUS_H_
