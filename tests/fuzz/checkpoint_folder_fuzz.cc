// A checkpoint folder from anybody: config.json, index and one shard, next to a shard that is
// sound. What opens can be read to the end.
//
// Input, parts separated by NUL: config.json | model.safetensors.index.json, or nothing for a
// single file | the bytes of a.safetensors (or model.safetensors).
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "formats/safetensors/safetensors.h"
#include "quantizers/model_source.h"

namespace {

void Check(const absl::Status& status) {
  if (absl::IsInternal(status) || absl::IsUnknown(status)) __builtin_trap();
}

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/checkpoint_folder_fuzz.XXXXXX";
    if (::mkdtemp(name) == nullptr) std::abort();
    path_ = name;
    const auto sound = quantd::SerializeSafetensors(
        {{"model.embed_tokens.weight", quantd::MakeTensor(quantd::DType::kBF16, {8, 4})},
         {"model.norm.weight", quantd::MakeTensor(quantd::DType::kBF16, {4})}},
        {});
    if (!sound.ok()) std::abort();
    Write("b.safetensors", {reinterpret_cast<const char*>(sound->data()), sound->size()});
  }
  ~Folder() { std::filesystem::remove_all(path_); }

  void Write(const char* name, absl::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  void Remove(const char* name) const { std::filesystem::remove(path_ / name); }
  std::shared_ptr<const quantd::Directory> Open() const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) std::abort();
    return std::make_shared<quantd::Directory>(fd, "folder");
  }

 private:
  std::filesystem::path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('\0', 2));
  if (parts.size() < 3) return 0;
  folder.Write("config.json", parts[0]);
  folder.Remove("model.safetensors");
  if (parts[1].empty()) {
    folder.Write("model.safetensors", parts[2]);
  } else {
    folder.Write("model.safetensors.index.json", parts[1]);
    folder.Write("a.safetensors", parts[2]);
  }
  const auto source = quantd::OpenCheckpointFolder(folder.Open());
  Check(source.status());
  if (!source.ok()) return 0;
  for (const quantd::SourceParameter& parameter : (*source)->parameters()) {
    const auto weight = (*source)->Read(parameter.name);
    Check(weight.status());
    if (weight.ok() && !parameter.is_quantized &&
        std::get<quantd::Tensor>(*weight).shape != parameter.shape) {
      __builtin_trap();
    }
  }
  Check((*source)->side_files().status());
  return 0;
}
