#include "client/quantctl/safetensors_file.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace quantd::ctl {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kHeaderLimit = 100'000'000;

absl::Status Broken(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is not a safetensors file: ", why));
}

// Adds one entry of the header. `data` is the file behind the header.
absl::Status AddTensor(const std::string& path, const std::string& name, const Json& entry,
                       absl::string_view data, SafetensorsFile& file) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
    return Broken(path, absl::StrCat("tensor ", name, " lacks dtype, shape or data_offsets"));
  }
  TensorData tensor;
  tensor.spec.set_name(name);
  tensor.spec.set_dtype(entry["dtype"].get<std::string>());
  for (const Json& dim : entry["shape"]) {
    if (!dim.is_number_unsigned()) return Broken(path, "a dimension is not a positive integer");
    tensor.spec.add_shape(dim.get<int64_t>());
  }
  const Json& begin = entry["data_offsets"][0];
  const Json& end = entry["data_offsets"][1];
  if (!begin.is_number_unsigned() || !end.is_number_unsigned() ||
      begin.get<uint64_t>() > end.get<uint64_t>() || end.get<uint64_t>() > data.size()) {
    return Broken(path, absl::StrCat("tensor ", name, " lies outside the file"));
  }
  const absl::string_view bytes =
      data.substr(begin.get<uint64_t>(), end.get<uint64_t>() - begin.get<uint64_t>());
  tensor.bytes.assign(bytes.data(), bytes.size());
  file.tensors.push_back(std::move(tensor));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> ReadSafetensors(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const std::string content(std::istreambuf_iterator<char>(stream), {});
  uint64_t length = 0;
  if (content.size() < sizeof(length)) return Broken(path, "shorter than 8 bytes");
  std::memcpy(&length, content.data(), sizeof(length));
  if (length > kHeaderLimit || length > content.size() - sizeof(length)) {
    return Broken(path, "the header is longer than the file");
  }
  const char* text = content.data() + sizeof(length);
  const Json header = Json::parse(text, text + length, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return Broken(path, "the header is not a JSON object");
  const absl::string_view data =
      absl::string_view(content).substr(sizeof(length) + static_cast<size_t>(length));
  SafetensorsFile file;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      if (absl::Status status = AddTensor(path, name, entry, data, file); !status.ok()) {
        return status;
      }
      continue;
    }
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) return Broken(path, "a metadata value is not a string");
      file.metadata[key] = value.get<std::string>();
    }
  }
  return file;
}

absl::Status WriteSafetensors(const std::string& path, const SafetensorsFile& file) {
  Json header = Json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  uint64_t offset = 0;
  for (const TensorData& tensor : file.tensors) {
    const uint64_t end = offset + tensor.bytes.size();
    header[tensor.spec.name()] = {
        {"dtype", tensor.spec.dtype()},
        {"shape", std::vector<int64_t>(tensor.spec.shape().begin(), tensor.spec.shape().end())},
        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  const std::string partial = absl::StrCat(path, ".partial-", getpid());
  std::ofstream stream(partial, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&length), sizeof(length));
  stream << text;
  for (const TensorData& tensor : file.tensors) stream << tensor.bytes;
  stream.close();
  if (!stream || std::rename(partial.c_str(), path.c_str()) != 0) {
    std::remove(partial.c_str());
    return absl::FailedPreconditionError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace quantd::ctl
