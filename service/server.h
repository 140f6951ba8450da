// The whole server as an object: for the quantd binary, for tests, and in-process for quantctl.
#ifndef QUANTD_SERVICE_SERVER_H_
#define QUANTD_SERVICE_SERVER_H_

#include <functional>
#include <memory>

#include "core/status.h"
#include "service/config.h"

namespace grpc {
class Channel;
}

namespace quantd {

class Server {
 public:
  // Opens the model root, sweeps what earlier processes left, and listens. The compute pool of the
  // process is sized by the configuration. Errors name the flag: INVALID_ARGUMENT,
  // FAILED_PRECONDITION (model root), UNAVAILABLE (address in use).
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config);
  // Shuts down at once if that has not happened.
  virtual ~Server() = default;

  // The TCP port of gRPC and of metrics; 0 without one.
  virtual int port() const = 0;
  virtual int metrics_port() const = 0;
  // A channel that needs no socket. Valid as long as the server.
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;

  // Not ready from now on: new calls get UNAVAILABLE, running ones finish within the grace period
  // or end with UNAVAILABLE, quantizations stop resumable. Returns when nothing runs any more; at
  // once (after cutting what runs) when `hurry` returns true. The second call does nothing.
  virtual void Shutdown(const std::function<bool()>& hurry = nullptr) = 0;

  // False when a fresh connection was not answered several times in a row (see self_probe.h).
  virtual bool healthy() const = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_SERVER_H_
