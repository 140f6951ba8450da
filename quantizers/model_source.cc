#include "quantizers/model_source.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/gguf/split_name.h"

namespace quantd {
namespace {

// The one .gguf file of a folder without config.json.
absl::StatusOr<std::string> OnlyGguf(const Directory& folder) {
  std::string found;
  for (const std::string& entry : folder.List()) {
    const auto split = ParseGgufSplitName(entry);
    if (!absl::EndsWith(entry, ".gguf") || (split && split->part > 1)) continue;
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

// The file, and the other parts where it is the first of several.
absl::StatusOr<std::vector<std::shared_ptr<const File>>> OpenParts(const Directory& folder,
                                                                   absl::string_view name) {
  std::vector<std::shared_ptr<const File>> files;
  std::optional<GgufSplitName> split = ParseGgufSplitName(name);
  if (split && split->part > 1) {
    const int part = std::exchange(split->part, 1);
    return absl::InvalidArgumentError(absl::StrCat(name, " is part ", part, " of ", split->parts,
                                                   "; name the first, ", split->FileName()));
  }
  for (int part = 1; split && part <= split->parts; ++part) {
    split->part = part;
    auto file = folder.OpenFile(split->FileName());
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(absl::StrCat(name, " is the first of ", split->parts, " parts; ",
                                              split->FileName(), " is missing"));
    }
    RETURN_IF_ERROR(file.status());
    files.push_back(*std::move(file));
  }
  if (!split) {
    ASSIGN_OR_RETURN(std::shared_ptr<const File> file, folder.OpenFile(name));
    files.push_back(std::move(file));
  }
  return files;
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufIn(const Directory& folder,
                                                        absl::string_view name) {
  ASSIGN_OR_RETURN(std::vector<std::shared_ptr<const File>> files, OpenParts(folder, name));
  return OpenGgufModel(std::move(files));
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
    return OpenGgufIn(root->directory(), name);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const Directory> folder, root->OpenFolder(name));
  if (folder->Contains("config.json")) return OpenCheckpointFolder(std::move(folder));
  ASSIGN_OR_RETURN(const std::string gguf, OnlyGguf(*folder));
  return OpenGgufIn(*folder, gguf);
}

}  // namespace quantd
