#include "client/quantctl/context.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quantd::ctl {
namespace {

// Of one attempt.
constexpr absl::Duration kConnectTimeout = absl::Seconds(1);
constexpr char kUsagePayload[] = "quantctl/usage";

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read the file ", path));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::StatusOr<ClientOptions> BuildClientOptions(const GlobalOptions& options) {
  ClientOptions client{.address = options.server,
                       .retry_for = absl::Seconds(options.retry_seconds)};
  const std::pair<const std::string*, std::string*> files[] = {
      {&options.tls_ca, &client.tls_ca},
      {&options.tls_cert, &client.tls_cert},
      {&options.tls_key, &client.tls_key},
      {&options.token_file, &client.token}};
  for (const auto& [path, text] : files) {
    if (path->empty()) continue;
    auto content = ReadFile(*path);
    if (!content.ok()) return content.status();
    *text = *std::move(content);
  }
  absl::StripAsciiWhitespace(&client.token);
  return client;
}

}  // namespace

absl::StatusOr<Client*> Context::client() {
  if (client_) return client_.get();
  auto client_options = BuildClientOptions(options);
  if (!client_options.ok()) return client_options.status();
  if (options.embedded) {
    auto embedded = EmbeddedServer::Start(options.root);
    if (!embedded.ok()) return embedded.status();
    embedded_ = *std::move(embedded);
    client_ = Client::FromChannel(embedded_->channel(), *client_options);
    return client_.get();
  }
  auto client = Client::Connect(*client_options);
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  if (absl::Status status =
          client_->WaitReady(std::max(client_options->retry_for, kConnectTimeout));
      !status.ok()) {
    return absl::UnavailableError(absl::StrCat(
        "no quantd answers at ", options.server,
        "; start one with `quantd --model-root DIR`, name it with --server, or use --embedded"));
  }
  return client_.get();
}

CallOptions Context::call() {
  CallOptions call{.cancellation = &cancellation};
  if (options.timeout_seconds > 0) call.timeout = absl::Seconds(options.timeout_seconds);
  return call;
}

void Context::PrintJson(const google::protobuf::Message& message) const {
  google::protobuf::util::JsonPrintOptions print;
  print.add_whitespace = true;
  print.always_print_primitive_fields = true;
  print.preserve_proto_field_names = true;
  std::string text;
  (void)google::protobuf::util::MessageToJsonString(message, &text, print);
  std::fputs(text.c_str(), stdout);
}

absl::Status Context::EnsureLoaded(const std::string& model) {
  if (!options.embedded) return absl::OkStatus();
  auto connected = client();
  if (!connected.ok()) return connected.status();
  quant::v1::LoadModelRequest request;
  request.set_name(model);
  return (*connected)->LoadModel(request, call()).status();
}

void Context::Close() {
  client_.reset();
  embedded_.reset();
}

absl::Status WrongUsage(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

int ExitCodeFor(const absl::Status& status) {
  if (status.GetPayload(kUsagePayload).has_value()) return kWrongUsage;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kUnavailable:
      return kUnreachable;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    default:
      return kFailed;
  }
}

void RecipeFlags::AddTo(CLI::App& verb, const char* method_flag) {
  verb.add_option(method_flag, method, "method, see `quantctl methods`");
  verb.add_option(
      "--quantization-config", config_file,
      "upstream quantization_config (config.json, quanto_qmap.json) as a JSON file, instead of "
      "a method");
  verb.add_option("--bits", bits, "bits per weight, where the method has a choice");
  verb.add_option("--group-size", group_size, "elements that share a scale; -1: the whole row");
  verb.add_option("--set", set, "method option as key=value; repeatable")->allow_extra_args(false);
}

absl::StatusOr<quant::v1::Recipe> RecipeFlags::Build(
    std::map<std::string, std::string>* extra) const {
  quant::v1::Recipe recipe;
  recipe.set_method(method);
  recipe.set_bits(bits);
  recipe.set_group_size(group_size);
  if (!config_file.empty()) {
    auto text = ReadFile(config_file);
    if (!text.ok()) return text.status();
    recipe.set_quantization_config(*std::move(text));
  }
  for (const std::string& item : set) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(item, absl::MaxSplits('=', 1));
    if (item.find('=') == std::string::npos || pair.first.empty()) {
      return WrongUsage(absl::StrCat("--set ", item, ": expected key=value"));
    }
    if (extra != nullptr && pair.first == "nonfinite") {
      (*extra)[pair.first] = pair.second;
    } else {
      (*recipe.mutable_options())[pair.first] = pair.second;
    }
  }
  return recipe;
}

}  // namespace quantd::ctl
