// TLS of the listening port: PEM files that are read again when they change.
#ifndef QUANTD_SERVICE_CREDENTIALS_H_
#define QUANTD_SERVICE_CREDENTIALS_H_

#include <memory>

#include "core/status.h"
#include "service/config.h"

namespace grpc {
class ServerCredentials;
}

namespace quantd {

// TLS 1.2 and later when the configuration has a certificate, with client certificates required
// when it has a client CA; plain text otherwise. INVALID_ARGUMENT names the flag whose file is
// unreadable, is not PEM, or does not belong to the other.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerConfig& config);

}  // namespace quantd

#endif  // QUANTD_SERVICE_CREDENTIALS_H_
