// What every verb of quantctl shares: the server to talk to, the output format, cancellation.
#ifndef QUANTD_CLIENT_QUANTCTL_CONTEXT_H_
#define QUANTD_CLIENT_QUANTCTL_CONTEXT_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "client/quantctl/embedded.h"
#include "client/quantd/client.h"

namespace google::protobuf {
class Message;
}

namespace quantd::ctl {

// Options before the verb.
struct GlobalOptions {
  std::string server = "127.0.0.1:8001";
  bool embedded = false;
  std::string root;  // model root of --embedded
  std::string output = "text";
  std::string token_file, tls_ca, tls_cert, tls_key;
  double timeout_seconds = 0;  // 0: none
  double retry_seconds = 5;    // for a server that does not answer, or is about to end
};

class Context {
 public:
  GlobalOptions options;
  Cancellation cancellation;
  // Set by the parsed verb; main runs it.
  std::function<absl::Status(Context&)> run;

  // The server named by the options, or one started in this process. UNAVAILABLE if nothing
  // answers.
  absl::StatusOr<Client*> client();
  // Timeout and cancellation of one call.
  CallOptions call();

  bool json() const { return options.output == "json"; }
  // The one JSON document of --output json.
  void PrintJson(const google::protobuf::Message& message) const;
  // In --embedded nothing stays loaded between commands, so verbs that infer load first. On a
  // server this does nothing: loading is the user's decision.
  absl::Status EnsureLoaded(const std::string& model);
  // Ends the connection and the server of --embedded: before the process's statics go, which
  // running jobs need.
  void Close();

 private:
  std::unique_ptr<EmbeddedServer> embedded_;
  std::unique_ptr<Client> client_;
};

// Exit codes; names and numbers are fixed.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kWrongUsage = 2,
  kUnreachable = 3,
  kNotFound = 4,
  kInterrupted = 130,
};
int ExitCodeFor(const absl::Status& status);
// INVALID_ARGUMENT for a command line that CLI11 cannot tell to be wrong: exit code 2.
absl::Status WrongUsage(absl::string_view message);

// A verb: adds its subcommand with options; the subcommand's callback sets Context::run.
struct Verb {
  const char* name;
  void (*add)(CLI::App& app, Context& context);
};

void AddMethods(CLI::App& app, Context& context);
void AddQuantize(CLI::App& app, Context& context);
void AddDequantize(CLI::App& app, Context& context);
void AddTensor(CLI::App& app, Context& context);
void AddInspect(CLI::App& app, Context& context);
void AddEvaluate(CLI::App& app, Context& context);
void AddLoad(CLI::App& app, Context& context);
void AddUnload(CLI::App& app, Context& context);
void AddModels(CLI::App& app, Context& context);
void AddGenerate(CLI::App& app, Context& context);
void AddEmbed(CLI::App& app, Context& context);
void AddTokenize(CLI::App& app, Context& context);
void AddOperations(CLI::App& app, Context& context);
void AddStatus(CLI::App& app, Context& context);
void AddCompletion(CLI::App& app, Context& context);

// Options that describe a recipe, shared by quantize, tensor quantize and load --quantize.
struct RecipeFlags {
  std::string method;
  std::string config_file;
  int bits = 0;
  int group_size = 0;
  std::vector<std::string> set;

  void AddTo(CLI::App& verb, const char* method_flag);
  // INVALID_ARGUMENT for a --set without '=' or an unreadable file. `extra` receives those of the
  // pipeline's own keys (nonfinite) that are no options of a method.
  absl::StatusOr<quant::v1::Recipe> Build(std::map<std::string, std::string>* extra) const;
};

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_CONTEXT_H_
