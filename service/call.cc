#include "service/call.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/log.h"
#include "service/status.h"

namespace quantd {
namespace {

std::string NewRequestId() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad16));
}

// A client's own id, when it is short and harmless.
bool IsUsableId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

}  // namespace

absl::string_view MetadataValue(const grpc::ServerContextBase& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find(key);
  return it == metadata.end() ? absl::string_view()
                              : absl::string_view(it->second.data(), it->second.size());
}

Call::Call(ServiceContext& services, grpc::CallbackServerContext* context, const char* method)
    : services_(services),
      context_(context),
      method_(method),
      start_(std::chrono::steady_clock::now()),
      deadline_(absl::FromChrono(context->deadline())),
      cancelled_(std::make_shared<std::atomic<bool>>(false)) {
  const absl::string_view given = MetadataValue(*context, "x-request-id");
  request_id_ = IsUsableId(given) ? std::string(given) : NewRequestId();
  context->AddTrailingMetadata("x-request-id", request_id_);
  ++services_.active_calls;
}

absl::Status Call::Admit(Access needed) const {
  if (services_.tokens != nullptr) {
    std::vector<absl::string_view> authorization;
    const auto range = context_->client_metadata().equal_range("authorization");
    for (auto it = range.first; it != range.second; ++it) {
      authorization.emplace_back(it->second.data(), it->second.size());
    }
    RETURN_IF_ERROR(services_.tokens->Check(authorization, needed));
  }
  if (services_.draining && needed != Access::kPublic) {
    return absl::UnavailableError("the server is shutting down; try another one");
  }
  if (deadline_ <= absl::Now()) {
    return absl::DeadlineExceededError("the deadline was over before the call began");
  }
  return absl::OkStatus();
}

grpc::Status Call::End(const absl::Status& status) {
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const std::string code = status.ok() ? "OK" : CodeName(status.code());
  services_.metrics.CallDone(method_, code, seconds);
  --services_.active_calls;
  const bool ours = absl::IsInternal(status) || absl::IsUnknown(status);
  const LogLevel level = ours ? LogLevel::kError : status.ok() ? LogLevel::kDebug : LogLevel::kInfo;
  if (LogEnabled(level)) {
    if (status.ok() || absl::IsUnauthenticated(status)) {
      Log(level, "call",
          {{"method", method_},
           {"code", code},
           {"seconds", seconds},
           {"request_id", request_id_},
           {"model", model_}});
    } else {
      Log(level, "call",
          {{"method", method_},
           {"code", code},
           {"seconds", seconds},
           {"request_id", request_id_},
           {"model", model_},
           {"message", std::string(status.message())}});
    }
  }
  return ToGrpcStatus(status);
}

}  // namespace quantd
