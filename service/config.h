// Settings of the server: flags over environment (QUANTD_*) over a JSON file over defaults.
#ifndef QUANTD_SERVICE_CONFIG_H_
#define QUANTD_SERVICE_CONFIG_H_

#include <cstdint>
#include <string>
#include <variant>

#include "core/status.h"

namespace quantd {

struct ServerConfig {
  std::string model_root;
  // HOST:PORT or unix:PATH; port 0 takes a free one. "" only in embedded use: no socket at all.
  std::string listen = "127.0.0.1:8001";
  std::string metrics_listen = "127.0.0.1:8002";  // "" or "off": none
  std::string tls_cert, tls_key, tls_client_ca;   // PEM files
  std::string auth_token_file;
  bool insecure_listen_anywhere = false;
  int threads = 0;             // 0: as many as the affinity mask and the cgroup grant
  uint64_t memory_limit = 0;   // bytes; 0: the cgroup's limit, else the machine's memory
  std::string device = "cpu";  // for loads that name none
  uint64_t max_message_bytes = 64 << 20;
  uint64_t max_response_bytes = uint64_t{1} << 30;
  int max_sequences = 16;  // per model, for loads that name none
  int max_queued_requests = 256;
  int max_queued_operations = 64;
  int operation_retention_hours = 24;
  double drain_grace_seconds = 20;
  double lame_duck_seconds = -1;  // negative: 0 on loopback and unix sockets, 5 elsewhere
  double stream_idle_seconds = 60;
  std::string reflection = "auto";  // "on", "off", "auto": on for loopback and unix sockets
  std::string log_level = "info";   // trace, debug, info, warning, error, off
  bool self_probe = true;

  bool is_local() const;  // loopback, unix socket or no socket
  bool has_metrics() const { return !metrics_listen.empty() && metrics_listen != "off"; }
};

// Printed text of --help, --version or --print-config: the program ends with code 0.
struct PrintAndExit {
  std::string text;
};

// INVALID_ARGUMENT with one line that names the flag or key.
absl::StatusOr<std::variant<ServerConfig, PrintAndExit>> ParseCommandLine(int argc,
                                                                          const char* const* argv);
// What the settings imply together: loopback or credentials, a certificate with its key, ranges.
absl::Status CheckConfig(const ServerConfig& config);

}  // namespace quantd

#endif  // QUANTD_SERVICE_CONFIG_H_
