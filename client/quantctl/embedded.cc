// The composition root of --embedded: the one file of the client that knows the server.
#include "client/quantctl/embedded.h"

#include "core/wait_policy.h"
#include "service/server.h"

namespace quantd::ctl {
namespace {

class InProcessServer final : public EmbeddedServer {
 public:
  explicit InProcessServer(std::unique_ptr<Server> server) : server_(std::move(server)) {}
  std::shared_ptr<grpc::Channel> channel() override { return server_->InProcessChannel(); }

 private:
  std::unique_ptr<Server> server_;
};

}  // namespace

void PrepareForEmbedded(char** argv) { ShortenSpins(argv); }

absl::StatusOr<std::unique_ptr<EmbeddedServer>> EmbeddedServer::Start(const std::string& root) {
  ServerConfig config;
  config.model_root = root;
  config.listen = "";
  config.metrics_listen = "";
  config.log_level = "warning";
  auto server = Server::Start(config);
  if (!server.ok()) return server.status();
  return std::make_unique<InProcessServer>(*std::move(server));
}

}  // namespace quantd::ctl
