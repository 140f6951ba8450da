// quantd: the server.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <iostream>
#include <variant>

#include "absl/strings/str_cat.h"
#include "core/wait_policy.h"
#include "service/log.h"
#include "service/process.h"
#include "service/server.h"
#include "service/version.h"

namespace quantd {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitDeaf = 70;
constexpr int kExitHurried = 1;

// SIGTERM and SIGINT are taken synchronously, here only, so nothing runs in a signal handler.
sigset_t BlockedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  return set;
}

bool SignalWithin(const sigset_t& set, int milliseconds) {
  const timespec timeout{milliseconds / 1000, (milliseconds % 1000) * 1'000'000L};
  return sigtimedwait(&set, nullptr, &timeout) > 0;
}

int Run(const ServerConfig& config, const sigset_t& signals) {
  StartLog(config.log_level);
  auto server = Server::Start(config);
  if (!server.ok()) {
    FlushLog();
    std::cerr << absl::StrCat("quantd: ", server.status().message(), "\n");
    return 1;
  }
  if (!config.is_local() && config.tls_client_ca.empty() && config.auth_token_file.empty()) {
    Log(LogLevel::kWarning, "reachable from outside without TLS or tokens",
        {{"listen", config.listen}});
  }
  Log(LogLevel::kInfo, "serving",
      {{"version", kVersion},
       {"listen", config.listen},
       {"port", static_cast<int64_t>((*server)->port())},
       {"metrics_port", static_cast<int64_t>((*server)->metrics_port())}});
  while (!SignalWithin(signals, 500)) {
    if (!(*server)->healthy()) {
      Log(LogLevel::kError, "fresh connections are not answered any more; exiting");
      FlushLog();
      _exit(kExitDeaf);
    }
  }
  bool hurried = false;
  (*server)->Shutdown([&] {
    hurried = hurried || SignalWithin(signals, 0);
    return hurried;
  });
  Log(LogLevel::kInfo, hurried ? "stopped in a hurry" : "stopped");
  FlushLog();
  if (hurried) {
    _exit(kExitHurried);  // running quantizations stay resumable, as after a crash
  }
  server->reset();
  FlushLog();
  return 0;
}

int Main(int argc, char** argv) {
  const sigset_t signals = BlockedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread starts
  PrepareProcess();
  const auto parsed = ParseCommandLine(argc, argv);
  if (!parsed.ok()) {
    std::cerr << absl::StrCat("quantd: ", parsed.status().message(), "\n");
    return kExitUsage;
  }
  if (const auto* text = std::get_if<PrintAndExit>(&*parsed)) {
    std::cout << text->text;
    return 0;
  }
  return Run(std::get<ServerConfig>(*parsed), signals);
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  quantd::ShortenSpins(argv);
  return quantd::Main(argc, argv);
}
