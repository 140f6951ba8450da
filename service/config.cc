#include "service/config.h"

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "service/status.h"
#include "service/version.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 1 << 20;

// One setting: its flag and how it is shown by --print-config.
struct Setting {
  CLI::Option* option;
  std::string key;  // model_root, as the JSON file spells it
  std::function<json()> value;
};

class Settings {
 public:
  Settings(CLI::App& app, ServerConfig& config) : app_(app) {
    Add("model_root", config.model_root, "Folder with the models; nothing outside is touched");
    Add("listen", config.listen, "HOST:PORT or unix:PATH for gRPC; port 0 takes a free one");
    Add("metrics_listen", config.metrics_listen, "HOST:PORT for Prometheus, or `off`");
    Add("tls_cert", config.tls_cert, "PEM file of the certificate chain; reread when it changes");
    Add("tls_key", config.tls_key, "PEM file of the private key");
    Add("tls_client_ca", config.tls_client_ca, "PEM file of the CA that clients must have");
    Add("auth_token_file", config.auth_token_file, "File of bearer tokens with roles");
    Add("insecure_listen_anywhere", config.insecure_listen_anywhere,
        "Allow a non-loopback address without TLS or tokens");
    Add("threads", config.threads, "Compute threads; 0: what affinity and cgroup grant");
    AddBytes("memory_limit", config.memory_limit, "Bytes for loaded models; 0: the cgroup's limit");
    Add("device", config.device, "cpu, opencl, opencl:N or auto, for loads that name none");
    AddBytes("max_message_bytes", config.max_message_bytes, "Largest request message");
    AddBytes("max_response_bytes", config.max_response_bytes, "Largest response message");
    Add("max_sequences", config.max_sequences, "Sequences per model that run at once");
    Add("max_queued_requests", config.max_queued_requests, "Requests per queue that may wait");
    Add("max_queued_operations", config.max_queued_operations, "Quantizations that may wait");
    Add("operation_retention_hours", config.operation_retention_hours,
        "How long finished operations are listed");
    Add("drain_grace", config.drain_grace_seconds, "Seconds that running calls get at shutdown");
    Add("lame_duck", config.lame_duck_seconds,
        "Seconds to keep the port open while not ready at shutdown; negative: 0 locally, else 5");
    Add("stream_idle_limit", config.stream_idle_seconds,
        "Seconds after which a stream that neither reads nor writes is ended");
    Add("reflection", config.reflection, "on, off, or auto: on for loopback and unix sockets");
    Add("log_level", config.log_level, "trace, debug, info, warning, error or off");
    Add("self_probe", config.self_probe, "Exit when fresh connections are not answered any more");
  }

  // Values of the file for what neither flag nor environment gave.
  absl::Status Apply(const json& file) {
    for (const auto& [name, value] : file.items()) {
      const std::string key = absl::StrReplaceAll(name, {{"-", "_"}});
      const auto setting = std::find_if(settings_.begin(), settings_.end(),
                                        [&key](const Setting& s) { return s.key == key; });
      if (setting == settings_.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("config file: unknown key \"", Shown(name),
                         "\"; see --print-config for the known ones"));
      }
      if (value.is_structured() || value.is_null()) {
        return absl::InvalidArgumentError(
            absl::StrCat("config file: \"", Shown(name), "\" must be a string, number or boolean"));
      }
      if (setting->option->count() == 0) {
        setting->option->add_result(value.is_string() ? value.get<std::string>() : value.dump());
        setting->option->run_callback();
      }
    }
    return absl::OkStatus();
  }

  std::string Print() const {
    json out = json::object();
    for (const Setting& setting : settings_) {
      out[setting.key] = setting.value();
    }
    return absl::StrCat(out.dump(2), "\n");
  }

 private:
  CLI::Option* Finish(CLI::Option* option, const std::string& key, std::function<json()> value) {
    option->envname(absl::StrCat("QUANTD_", absl::AsciiStrToUpper(key)));
    option->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    settings_.push_back({option, key, std::move(value)});
    return option;
  }

  static std::string Flag(const std::string& key) {
    return absl::StrCat("--", absl::StrReplaceAll(key, {{"_", "-"}}));
  }

  template <class T>
  void Add(const std::string& key, T& value, const std::string& help) {
    CLI::Option* option = std::is_same_v<T, bool> ? nullptr : nullptr;
    if constexpr (std::is_same_v<T, bool>) {
      option = app_.add_flag(Flag(key) + ",!--no-" + Flag(key).substr(2), value, help);
    } else {
      option = app_.add_option(Flag(key), value, help)->capture_default_str();
    }
    Finish(option, key, [&value] { return json(value); });
  }

  // Bytes, also as "512MiB", "4GB".
  void AddBytes(const std::string& key, uint64_t& value, const std::string& help) {
    CLI::Option* option = app_.add_option(Flag(key), value, help)
                              ->capture_default_str()
                              ->transform(CLI::AsSizeValue(false));
    Finish(option, key, [&value] { return json(value); });
  }

  CLI::App& app_;
  std::vector<Setting> settings_;
};

absl::StatusOr<json> ReadConfigFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::InvalidArgumentError(absl::StrCat("--config ", Shown(path), ": cannot be read"));
  }
  std::string text(kMaxConfigBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad() || text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config ", Shown(path), ": cannot be read or is larger than 1 MiB"));
  }
  bool deep = false;
  const json parsed = json::parse(
      text,
      [&deep](int depth, json::parse_event_t, json&) {
        deep = deep || depth > 4;
        return !deep;
      },
      /*allow_exceptions=*/false);
  if (deep || !parsed.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config ", Shown(path), ": expected one JSON object of settings"));
  }
  return parsed;
}

absl::string_view HostOf(absl::string_view address) {
  const size_t colon = address.rfind(':');
  absl::string_view host = address.substr(0, colon);
  absl::ConsumePrefix(&host, "[");
  absl::ConsumeSuffix(&host, "]");
  return host;
}

bool IsLocalAddress(absl::string_view address) {
  const absl::string_view host = HostOf(address);
  return address.empty() || absl::StartsWith(address, "unix:") || host == "localhost" ||
         host == "::1" || absl::StartsWith(host, "127.");
}

absl::Status CheckAddress(absl::string_view flag, absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) {
    return address.size() > 5 && address.size() < 5 + 108
               ? absl::OkStatus()
               : absl::InvalidArgumentError(
                     absl::StrCat(flag, ": a unix socket's path has 1 to 107 bytes"));
  }
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", Shown(address), ": expected HOST:PORT or unix:PATH"));
  }
  return absl::OkStatus();
}

}  // namespace

bool ServerConfig::is_local() const { return IsLocalAddress(listen); }

absl::Status CheckConfig(const ServerConfig& config) {
  if (config.model_root.empty()) {
    return absl::InvalidArgumentError("--model-root is required: the folder with the models");
  }
  if (!config.listen.empty()) {
    RETURN_IF_ERROR(CheckAddress("--listen", config.listen));
  }
  if (config.has_metrics()) {
    RETURN_IF_ERROR(CheckAddress("--metrics-listen", config.metrics_listen));
  }
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together");
  }
  if (!config.tls_client_ca.empty() && config.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  const bool protected_ = !config.tls_client_ca.empty() || !config.auth_token_file.empty();
  if (!config.is_local() && !protected_ && !config.insecure_listen_anywhere) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen ", Shown(config.listen),
                     " is reachable from outside: give --auth-token-file or --tls-client-ca (with "
                     "--tls-cert and "
                     "--tls-key), or say --insecure-listen-anywhere"));
  }
  const auto range = [](absl::string_view flag, double value, double low,
                        double high) -> absl::Status {
    if (!(value >= low && value <= high)) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", value, ": must be between ", low, " and ", high));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(range("--threads", config.threads, 0, 1024));
  RETURN_IF_ERROR(range("--max-message-bytes", static_cast<double>(config.max_message_bytes), 4096,
                        2147483647));
  RETURN_IF_ERROR(range("--max-response-bytes", static_cast<double>(config.max_response_bytes),
                        4096, 2147483647));
  RETURN_IF_ERROR(range("--max-sequences", config.max_sequences, 1, 1024));
  RETURN_IF_ERROR(range("--max-queued-requests", config.max_queued_requests, 1, 65536));
  RETURN_IF_ERROR(range("--max-queued-operations", config.max_queued_operations, 1, 65536));
  RETURN_IF_ERROR(
      range("--operation-retention-hours", config.operation_retention_hours, 1, 24 * 365));
  RETURN_IF_ERROR(range("--drain-grace", config.drain_grace_seconds, 0, 3600));
  RETURN_IF_ERROR(range("--lame-duck", config.lame_duck_seconds, -1, 3600));
  RETURN_IF_ERROR(range("--stream-idle-limit", config.stream_idle_seconds, 0.1, 86400));
  if (config.reflection != "on" && config.reflection != "off" && config.reflection != "auto") {
    return absl::InvalidArgumentError("--reflection must be on, off or auto");
  }
  static constexpr const char* kLevels[] = {"trace", "debug", "info", "warning", "error", "off"};
  if (std::find(std::begin(kLevels), std::end(kLevels), config.log_level) == std::end(kLevels)) {
    return absl::InvalidArgumentError(
        "--log-level must be trace, debug, info, warning, error or off");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::variant<ServerConfig, PrintAndExit>> ParseCommandLine(int argc,
                                                                          const char* const* argv) {
  ServerConfig config;
  CLI::App app("quantd: quantizes model checkpoints and serves them over gRPC", "quantd");
  std::string config_file;
  bool print_config = false;
  app.add_option("--config", config_file, "JSON file of settings")->envname("QUANTD_CONFIG");
  app.add_flag("--print-config", print_config, "Print the settings as JSON and exit");
  app.set_version_flag("--version", absl::StrCat("quantd ", kVersion));
  Settings settings(app, config);
  try {
    app.parse(argc, argv);
    if (!config_file.empty()) {
      ASSIGN_OR_RETURN(const json file, ReadConfigFile(config_file));
      RETURN_IF_ERROR(settings.Apply(file));
    }
  } catch (const CLI::CallForHelp&) {
    return PrintAndExit{app.help()};
  } catch (const CLI::CallForVersion&) {
    return PrintAndExit{absl::StrCat("quantd ", kVersion, "\n")};
  } catch (const CLI::Error& error) {
    std::string text = error.what();
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(absl::StrReplaceAll(text, {{"\n", " "}})), " (see quantd --help)"));
  }
  if (print_config) {
    return PrintAndExit{settings.Print()};
  }
  RETURN_IF_ERROR(CheckConfig(config));
  return config;
}

}  // namespace quantd
