// quantctl: quantd's command line.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/embedded.h"

namespace quantd::ctl {
namespace {

constexpr Verb kVerbs[] = {
    {"methods", AddMethods},
    {"quantize", AddQuantize},
    {"dequantize", AddDequantize},
    {"tensor", AddTensor},
    {"inspect", AddInspect},
    {"evaluate", AddEvaluate},
    {"load", AddLoad},
    {"unload", AddUnload},
    {"models", AddModels},
    {"generate", AddGenerate},
    {"embed", AddEmbed},
    {"tokenize", AddTokenize},
    {"operations", AddOperations},
    {"status", AddStatus},
    {"completion", AddCompletion},
};

// The first Ctrl-C (or SIGTERM) cancels the running call, a second one ends the process at once.
void CancelOnSignals(Cancellation& cancellation) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, &cancellation] {
    int signal = 0;
    sigwait(&signals, &signal);
    cancellation.Cancel();
    sigwait(&signals, &signal);
    std::_Exit(kInterrupted);
  }).detach();
}

void AddGlobalOptions(CLI::App& app, GlobalOptions& options) {
  app.add_option("--server", options.server, "address of quantd, host:port or unix:PATH")
      ->envname("QUANTD_SERVER")
      ->capture_default_str();
  auto* embedded = app.add_flag("--embedded", options.embedded, "run the services in this process");
  auto* root = app.add_option("--root", options.root, "model root of --embedded");
  embedded->needs(root);
  root->needs(embedded);
  app.add_option("--output", options.output, "text, or one JSON document on standard output")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--timeout", options.timeout_seconds, "seconds a call may take; 0: no limit");
  app.add_option("--retry-for", options.retry_seconds,
                 "seconds that a server may take to answer, as during its restart; default 5")
      ->check(CLI::NonNegativeNumber)
      ->envname("QUANTD_RETRY_FOR");
  app.add_option("--token-file", options.token_file, "file with the bearer token")
      ->envname("QUANTD_TOKEN_FILE");
  app.add_option("--tls-ca", options.tls_ca, "PEM file of the CA to trust; turns TLS on");
  app.add_option("--tls-cert", options.tls_cert, "PEM file of the client certificate");
  app.add_option("--tls-key", options.tls_key, "PEM file of its key");
}

// "--output json" may also stand behind the verb, where people type it.
int Parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? -1 : kWrongUsage;
  }
  return 0;
}

void PrintError(const absl::Status& status) {
  const std::string message(status.message().data(), status.message().size());
  const std::string code = absl::StatusCodeToString(status.code());
  std::fprintf(stderr, "quantctl: %s: %s\n", code.c_str(), message.c_str());
}

int Main(int argc, char** argv) {
  static Context context;
  CancelOnSignals(context.cancellation);
  CLI::App app("Quantizes models, loads them and infers from them on a quantd server.", "quantctl");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", QUANTD_VERSION);
  AddGlobalOptions(app, context.options);
  for (const Verb& verb : kVerbs) verb.add(app, context);
  if (const int code = Parse(app, argc, argv); code != 0) return code < 0 ? kDone : code;

  const absl::Status status = context.run(context);
  context.Close();
  if (context.cancellation.cancelled()) {
    std::fputs("\nquantctl: interrupted\n", stderr);
    return kInterrupted;
  }
  if (!status.ok()) PrintError(status);
  return ExitCodeFor(status);
}

}  // namespace
}  // namespace quantd::ctl

// Ends where there is no memory left.
int main(int argc, char** argv) {  // NOLINT(bugprone-exception-escape)
  const auto is_embedded = [](const char* argument) {
    return absl::string_view(argument) == "--embedded";
  };
  if (std::any_of(argv, argv + argc, is_embedded)) quantd::ctl::PrepareForEmbedded(argv);
  return quantd::ctl::Main(argc, argv);
}
