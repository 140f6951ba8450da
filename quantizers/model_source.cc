#include "quantizers/model_source.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// The one .gguf file of a folder without config.json.
absl::StatusOr<std::string> OnlyGguf(const Directory& folder) {
  std::string found;
  for (const std::string& entry : folder.List()) {
    if (!absl::EndsWith(entry, ".gguf")) continue;
    if (!found.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("folder ", folder.name(),
                       " holds several .gguf files and no config.json: ask for one by "
                       "its own name in the model root"));
    }
    found = entry;
  }
  if (found.empty()) {
    return absl::NotFoundError(
        absl::StrCat("folder ", folder.name(), " holds neither config.json nor a .gguf file"));
  }
  return found;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(std::shared_ptr<const ModelRoot> root,
                                                             absl::string_view name) {
  RETURN_IF_ERROR(CheckModelName(name));
  ASSIGN_OR_RETURN(const ModelRoot::EntryKind kind, root->Find(name));
  if (kind == ModelRoot::EntryKind::kFile) {
    if (!absl::EndsWith(name, ".gguf")) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is neither a checkpoint folder nor a .gguf file"));
    }
    ASSIGN_OR_RETURN(std::shared_ptr<const File> file, root->OpenFile(name));
    return OpenGgufModel(std::move(file));
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const Directory> folder, root->OpenFolder(name));
  if (folder->Contains("config.json")) return OpenCheckpointFolder(std::move(folder));
  ASSIGN_OR_RETURN(const std::string gguf, OnlyGguf(*folder));
  ASSIGN_OR_RETURN(std::shared_ptr<const File> file, folder->OpenFile(gguf));
  return OpenGgufModel(std::move(file));
}

}  // namespace quantd
