// What the system's error numbers mean to a caller.
#ifndef QUANTD_FORMATS_IO_ERROR_H_
#define QUANTD_FORMATS_IO_ERROR_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

// Status for errno value `error` of an operation on `name` (already escaped):
//   no space, quota, descriptors, memory   RESOURCE_EXHAUSTED
//   read or write fault of the device      DATA_LOSS
//   read-only, no right                    FAILED_PRECONDITION
//   absent, a symlink, not a folder        NOT_FOUND
//   there already                          ALREADY_EXISTS
// `doing` is the verb phrase: "cannot write".
absl::Status IoError(int error, absl::string_view doing, absl::string_view name);

// The same for a failed write of `needed` bytes through `fd`; a full disk is reported with figures.
absl::Status WriteError(int error, absl::string_view doing, absl::string_view name, int fd,
                        uint64_t needed);

// Bytes that an ordinary user may still write to the file system of `fd`; 0 when unknown.
uint64_t FreeBytesOf(int fd);

}  // namespace quantd

#endif  // QUANTD_FORMATS_IO_ERROR_H_
