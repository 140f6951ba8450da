// Reading and writing the small safetensors files of `quantctl tensor`: a u64 length, a JSON
// header, the data. The server checks tensors again; this only has to be safe on any file.
#ifndef QUANTD_CLIENT_QUANTCTL_SAFETENSORS_FILE_H_
#define QUANTD_CLIENT_QUANTCTL_SAFETENSORS_FILE_H_

#include <map>
#include <string>
#include <vector>

#include "client/quantd/client.h"

namespace quantd::ctl {

struct SafetensorsFile {
  std::vector<TensorData> tensors;
  std::map<std::string, std::string> metadata;
};

// INVALID_ARGUMENT for anything that is not a sound safetensors file; NOT_FOUND when it is not
// there.
absl::StatusOr<SafetensorsFile> ReadSafetensors(const std::string& path);
// Appears whole or not at all: written beside `path` and renamed.
absl::Status WriteSafetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_SAFETENSORS_FILE_H_
