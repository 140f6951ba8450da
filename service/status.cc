#include "service/status.h"

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quantd {
namespace {

// HTTP/2 peers limit headers to 8 KiB in all; the text travels twice (message and details).
constexpr size_t kMaxMessageBytes = 2000;

constexpr char kTypePrefix[] = "type.googleapis.com/";

void Attach(absl::Status& status, const google::protobuf::Message& detail) {
  status.SetPayload(absl::StrCat(kTypePrefix, detail.GetDescriptor()->full_name()),
                    absl::Cord(detail.SerializeAsString()));
}

// Cuts at a character's border; invalid UTF-8 is escaped (a proto string must be valid).
std::string MessageText(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size() && out.size() < kMaxMessageBytes;) {
    const unsigned char c = text[i];
    const size_t length = c < 0x80 ? 1 : c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 0;
    bool valid = length > 0 && c <= 0xF4 && i + length <= text.size();
    for (size_t k = 1; valid && k < length; ++k) {
      valid = (text[i + k] & 0xC0) == 0x80;
    }
    if (valid && length >= 3) {  // overlong forms, surrogates, past U+10FFFF
      const unsigned char d = text[i + 1];
      valid = !(c == 0xE0 && d < 0xA0) && !(c == 0xED && d >= 0xA0) && !(c == 0xF0 && d < 0x90) &&
              !(c == 0xF4 && d >= 0x90);
    }
    if (valid) {
      absl::StrAppend(&out, text.substr(i, length));
      i += length;
    } else {
      absl::StrAppend(&out, absl::CHexEscape(text.substr(i, 1)));
      ++i;
    }
  }
  return out;
}

}  // namespace

absl::Status WithReason(absl::Status status, absl::string_view reason,
                        const std::map<std::string, std::string>& facts) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain("quantd");
  for (const auto& [key, value] : facts) {
    (*info.mutable_metadata())[key] = MessageText(value);
  }
  Attach(status, info);
  return status;
}

absl::Status FieldError(absl::string_view field, absl::string_view description) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(MessageText(field));
  violation->set_description(MessageText(description));
  Attach(status, detail);
  return status;
}

absl::Status BusyError(absl::string_view message, absl::Duration retry_after) {
  absl::Status status = absl::ResourceExhaustedError(message);
  google::rpc::RetryInfo detail;
  detail.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(retry_after));
  detail.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(retry_after) % 1000000000));
  Attach(status, detail);
  return status;
}

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(MessageText(status.message()));
  status.ForEachPayload([&out](absl::string_view type, const absl::Cord& bytes) {
    if (absl::StartsWith(type, kTypePrefix)) {
      auto* detail = out.add_details();
      detail->set_type_url(std::string(type));
      detail->set_value(std::string(bytes));
    }
  });
  return out;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) {
    return grpc::Status::OK;
  }
  const google::rpc::Status full = ToRpcStatus(status);
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (full.details().empty()) {
    return grpc::Status(code, full.message());
  }
  return grpc::Status(code, full.message(), full.SerializeAsString());
}

std::string Shown(absl::string_view text) {
  const std::string escaped = absl::Utf8SafeCEscape(text.substr(0, 200));
  return escaped.size() <= 200 ? escaped : absl::StrCat(escaped.substr(0, 197), "...");
}

}  // namespace quantd
