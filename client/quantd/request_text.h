// What gRPC cannot say of a request: proto strings that are not UTF-8 never reach a server's
// handlers. Not installed.
#ifndef QUANTD_CLIENT_REQUEST_TEXT_H_
#define QUANTD_CLIENT_REQUEST_TEXT_H_

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}

namespace quantd {

// INVALID_ARGUMENT, with the field's name and the byte, if a string anywhere in `request` is not
// UTF-8.
absl::Status CheckText(const google::protobuf::Message& request);

}  // namespace quantd

#endif  // QUANTD_CLIENT_REQUEST_TEXT_H_
