#include "service/open_inference/repository_requests.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "service/log.h"
#include "service/open_inference/description.h"
#include "service/status.h"

namespace quantd {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

absl::Status ApplyConfig(const std::string& json, LoadSettings& settings) {
  inference::ModelConfig config;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (json.size() > kMaxConfigBytes ||
      !google::protobuf::util::JsonStringToMessage(json, &config, options).ok()) {
    return absl::InvalidArgumentError(
        "parameter \"config\": expected the JSON of a ModelConfig, at most 1 MiB");
  }
  for (const auto& [key, parameter] : config.parameters()) {
    const std::string& value = parameter.string_value();
    int32_t number = 0;
    if (key == "device") {
      settings.device = value;
    } else if (key == "compute") {
      if (value != "fast" && value != "exact") {
        return FieldError("config.parameters.compute", "must be fast or exact");
      }
      settings.compute = value == "exact" ? Compute::kExact : Compute::kFast;
    } else if (key == "quantize_activations") {
      if (value != "true" && value != "false") {
        return FieldError("config.parameters.quantize_activations", "must be true or false");
      }
      settings.quantize_activations = value == "true";
    } else if (key == "context_length" || key == "max_sequences") {
      if (!absl::SimpleAtoi(value, &number) || number < 0 ||
          (key == "max_sequences" && (number < 1 || number > 1024))) {
        return FieldError(absl::StrCat("config.parameters.", key), "is not a number in range");
      }
      (key == "context_length" ? settings.context_length : settings.max_sequences) = number;
    }
  }
  return absl::OkStatus();
}

std::string IndexState(const ModelEntry& entry) {
  switch (entry.state) {
    case ModelState::kReady:
      return "READY";
    case ModelState::kLoading:
      return "LOADING";
    case ModelState::kUnloading:
      return "UNLOADING";
    case ModelState::kFailed:
      return "UNAVAILABLE";
    case ModelState::kUnloaded:
      return entry.was_loaded ? "UNAVAILABLE" : "";
  }
  return "";
}

}  // namespace

absl::StatusOr<LoadSettings> SettingsFrom(const inference::RepositoryModelLoadRequest& request,
                                          const ServerConfig& config) {
  LoadSettings settings;
  settings.device = config.device;
  settings.max_sequences = config.max_sequences;
  for (const auto& [key, parameter] : request.parameters()) {
    if (absl::StartsWith(key, "file:")) {
      return absl::UnimplementedError(
          "file parameters are not supported: models come from the server's model root");
    }
    if (key == "config") {
      if (parameter.parameter_choice_case() != inference::ModelRepositoryParameter::kStringParam) {
        return FieldError("parameters.config", "must be a string");
      }
      RETURN_IF_ERROR(ApplyConfig(parameter.string_param(), settings));
    }
  }
  return settings;
}

void FillIndex(const ServiceContext& services, bool ready_only,
               inference::RepositoryIndexResponse& out) {
  for (const ModelRoot::Entry& model : services.root->List()) {
    const ModelEntry entry = services.repository->Get(model.name);
    if (ready_only && entry.state != ModelState::kReady) {
      continue;
    }
    auto& row = *out.add_models();
    row.set_name(model.name);
    row.set_version(kModelVersion);
    row.set_state(IndexState(entry));
    row.set_reason(entry.state == ModelState::kUnloaded && entry.was_loaded ? "unloaded"
                                                                            : Shown(entry.reason));
  }
}

absl::Status ApplyLogSettings(const inference::LogSettingsRequest& request) {
  using Setting = inference::LogSettingsRequest::SettingValue;
  static constexpr absl::string_view kOrder[] = {"log_error", "log_warning", "log_info"};
  const std::string before = GetLogLevel();
  bool on[] = {before != "off", before != "off" && before != "error",
               before != "off" && before != "error" && before != "warning"};
  uint32_t verbose = before == "trace" ? 2 : before == "debug" ? 1 : 0;
  for (const auto& [key, value] : request.settings()) {
    if (key == "log_verbose_level") {
      if (value.parameter_choice_case() != Setting::kUint32Param) {
        return FieldError("settings.log_verbose_level", "must be an unsigned integer");
      }
      verbose = value.uint32_param();
      continue;
    }
    const auto it = std::find(std::begin(kOrder), std::end(kOrder), key);
    if (it == std::end(kOrder)) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown log setting \"", Shown(key),
                       "\"; known are log_error, log_warning, log_info, log_verbose_level"));
    }
    if (value.parameter_choice_case() != Setting::kBoolParam) {
      return FieldError(absl::StrCat("settings.", key), "must be a boolean");
    }
    on[it - std::begin(kOrder)] = value.bool_param();
  }
  if (request.settings().empty()) {
    return absl::OkStatus();
  }
  SetLogLevel(verbose > 1    ? "trace"
              : verbose == 1 ? "debug"
              : on[2]        ? "info"
              : on[1]        ? "warning"
              : on[0]        ? "error"
                             : "off");
  return absl::OkStatus();
}

void FillLogSettings(inference::LogSettingsResponse& out) {
  const std::string level = GetLogLevel();
  auto& settings = *out.mutable_settings();
  const bool error = level != "off", warning = error && level != "error";
  settings["log_error"].set_bool_param(error);
  settings["log_warning"].set_bool_param(warning);
  settings["log_info"].set_bool_param(warning && level != "warning");
  settings["log_verbose_level"].set_uint32_param(level == "trace" ? 2 : level == "debug" ? 1 : 0);
}

}  // namespace quantd
