// quantctl --embedded: the same services in this process, with no server to start.
#ifndef QUANTD_CLIENT_QUANTCTL_EMBEDDED_H_
#define QUANTD_CLIENT_QUANTCTL_EMBEDDED_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class Channel;
}

namespace quantd::ctl {

// To be called first in main with its argv; may start the program anew (core/wait_policy.h).
void PrepareForEmbedded(char** argv);

// Owns the services; stops them when it goes.
class EmbeddedServer {
 public:
  // FAILED_PRECONDITION when `root` is not a usable folder.
  static absl::StatusOr<std::unique_ptr<EmbeddedServer>> Start(const std::string& root);
  virtual ~EmbeddedServer() = default;
  virtual std::shared_ptr<grpc::Channel> channel() = 0;
};

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_EMBEDDED_H_
