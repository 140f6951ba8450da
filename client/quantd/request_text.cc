#include "client/quantd/request_text.h"

#include <google/protobuf/message.h>
#include <google/protobuf/stubs/common.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsUtf8(absl::string_view text) {
  return google::protobuf::internal::IsStructurallyValidUTF8(text.data(),
                                                             static_cast<int>(text.size()));
}

// The first byte that no valid text goes on with.
size_t FirstInvalid(absl::string_view text) {
  size_t valid = 0;
  for (size_t end = 1; end <= text.size(); ++end) {
    if (IsUtf8(text.substr(valid, end - valid))) valid = end;
    if (end - valid >= 4) break;  // longer than any character
  }
  return valid;
}

absl::Status CheckString(absl::string_view text, absl::string_view name) {
  if (IsUtf8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is not UTF-8, from byte ", FirstInvalid(text), " on"));
}

absl::Status Check(const Message& message, absl::string_view prefix);

absl::Status CheckField(const Message& message, const FieldDescriptor& field,
                        absl::string_view prefix) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (!is_message && field.type() != FieldDescriptor::TYPE_STRING) return absl::OkStatus();
  const std::string name = absl::StrCat(prefix, field.name());
  std::string scratch;
  if (!field.is_repeated()) {
    if (is_message) return Check(reflection.GetMessage(message, &field), absl::StrCat(name, "."));
    return CheckString(reflection.GetStringReference(message, &field, &scratch), name);
  }
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const std::string element = absl::StrCat(name, "[", i, "]");
    absl::Status status =
        is_message
            ? Check(reflection.GetRepeatedMessage(message, &field, i), absl::StrCat(element, "."))
            : CheckString(reflection.GetRepeatedStringReference(message, &field, i, &scratch),
                          element);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Check(const Message& message, absl::string_view prefix) {
  std::vector<const FieldDescriptor*> fields;  // that are set
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    absl::Status status = CheckField(message, *field, prefix);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckText(const Message& request) { return Check(request, ""); }

}  // namespace quantd
