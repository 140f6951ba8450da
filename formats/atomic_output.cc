#include "formats/atomic_output.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "formats/beneath.h"
#include "formats/disk_wait.h"
#include "formats/escaped_name.h"
#include "formats/io_error.h"

namespace quantd {
namespace {

constexpr char kPartialSuffix[] = ".partial";
constexpr char kReplacedSuffix[] = ".replaced";

class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string PartialName(absl::string_view name) { return absl::StrCat(".", name, kPartialSuffix); }

bool Exists(int folder_fd, const std::string& name) {
  struct stat info;
  return fstatat(folder_fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
}

// Whether the folder that `fd` holds is still the one called `name`.
bool IsStill(int root_fd, const std::string& name, int fd) {
  struct stat held, named;
  return fstat(fd, &held) == 0 &&
         fstatat(root_fd, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

absl::Status SyncFolder(int fd, absl::string_view display_name) {
  // Some file systems cannot sync folders and say EINVAL; they order renames themselves.
  if (fsync(fd) != 0 && errno != EINVAL) {
    return WriteError(errno, "cannot sync the folder of", display_name, fd, 0);
  }
  return absl::OkStatus();
}

// Syncs every file below `fd`, then the folder itself. CANCELLED when stopped.
absl::Status SyncTree(int fd, absl::string_view display_name, const StopRequest& stopped) {
  for (const std::string& entry : EntriesOf(fd)) {
    const UniqueFd child(OpenBeneath(fd, entry, O_RDONLY | O_NONBLOCK));
    struct stat info;
    if (child.get() < 0 || fstat(child.get(), &info) != 0) {
      return IoError(errno, "cannot sync", absl::StrCat(display_name, "/", EscapedName(entry)));
    }
    const std::string child_name = absl::StrCat(display_name, "/", EscapedName(entry));
    if (S_ISDIR(info.st_mode)) {
      RETURN_IF_ERROR(SyncTree(child.get(), child_name, stopped));
    } else if (const int error = SyncOrStop(child.get(), stopped); error == ECANCELED) {
      return absl::CancelledError("the operation was cancelled");
    } else if (error != 0) {
      return WriteError(error, "cannot sync", child_name, child.get(),
                        static_cast<uint64_t>(info.st_size));
    }
  }
  return SyncFolder(fd, display_name);
}

// Opens or makes the folder and takes its lock; tries again when it vanished in between.
absl::StatusOr<UniqueFd> LockPartial(int root_fd, absl::string_view name) {
  const std::string partial = PartialName(name);
  constexpr int kAttempts = 100;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (mkdirat(root_fd, partial.c_str(), 0750) != 0 && errno != EEXIST) {
      return WriteError(errno, "cannot create the output", EscapedName(name), root_fd, 4096);
    }
    UniqueFd fd(OpenBeneath(root_fd, partial, O_RDONLY | O_DIRECTORY));
    if (fd.get() < 0) {
      if (errno == ENOENT) continue;
      return IoError(errno, "cannot open the partial folder of", EscapedName(name));
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return IoError(errno, "cannot lock", EscapedName(name));
      return absl::AbortedError(
          absl::StrCat("output ", Quoted(name),
                       " is being written by another job; wait for it, cancel "
                       "it, or choose another name"));
    }
    if (IsStill(root_fd, partial, fd.get())) return fd;
  }
  return absl::AbortedError(
      absl::StrCat("output ", Quoted(name), " is being written by other jobs; try again"));
}

class PartialOutput : public AtomicOutput {
 public:
  PartialOutput(std::shared_ptr<const ModelRoot> root, std::string name, const Options& options,
                UniqueFd folder)
      : root_(std::move(root)),
        name_(std::move(name)),
        partial_(PartialName(name_)),
        options_(options),
        folder_(std::move(folder)) {}

  ~PartialOutput() override {
    if (!finished_ && !keep_) (void)RemoveTree(root_fd(), partial_, EscapedName(name_));
  }

  absl::StatusOr<std::unique_ptr<OutputFile>> CreateFile(absl::string_view name) override {
    ASSIGN_OR_RETURN(const Place place, Locate(name, /*create=*/true));
    int flags = O_RDWR | O_CREAT;
    if (!options_.keep_partial) flags |= O_TRUNC;
    const int fd = OpenBeneath(place.folder_fd, place.name, flags, 0640);
    if (fd < 0) return WriteError(errno, "cannot create", Display(name), folder_.get(), 4096);
    return std::make_unique<OutputFile>(fd, Display(name), root_->directory().stopped());
  }

  absl::Status WriteFile(absl::string_view name, absl::string_view content) override {
    ASSIGN_OR_RETURN(const auto file, CreateFile(name));
    RETURN_IF_ERROR(file->Truncate(0));
    RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(content.data(), content.size()))));
    return file->Sync();
  }

  absl::Status RenameFile(absl::string_view from, absl::string_view to) override {
    ASSIGN_OR_RETURN(const Place source, Locate(from, /*create=*/false));
    ASSIGN_OR_RETURN(const Place target, Locate(to, /*create=*/true));
    if (renameat(source.folder_fd, source.name.c_str(), target.folder_fd, target.name.c_str()) !=
        0) {
      return WriteError(errno, "cannot rename", Display(from), folder_.get(), 4096);
    }
    return absl::OkStatus();
  }

  absl::Status RemoveFile(absl::string_view name) override {
    ASSIGN_OR_RETURN(const Place place, Locate(name, /*create=*/false));
    return RemoveFileBeneath(place.folder_fd, place.name, Display(name));
  }

  absl::StatusOr<std::shared_ptr<const File>> OpenFile(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const Place place, Locate(name, /*create=*/false));
    UniqueFd fd(OpenBeneath(place.folder_fd, place.name, O_RDONLY | O_NONBLOCK));
    struct stat info;
    if (fd.get() < 0) return IoError(errno, "cannot open", Display(name));
    if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
      return IoError(ENOENT, "cannot open", Display(name));
    }
    return std::make_shared<const File>(fd.release(), Display(name),
                                        static_cast<uint64_t>(info.st_size));
  }

  std::vector<std::string> List() const override {
    std::vector<std::string> names = EntriesOf(folder_.get());
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status Commit() override;
  void KeepPartial() override { keep_ = true; }

 private:
  // Where a name of one or two components lives; `holder` keeps a subfolder open.
  struct Place {
    int folder_fd;
    std::string name;
    UniqueFd holder;
  };

  int root_fd() const { return root_->directory().fd(); }
  std::string Display(absl::string_view name) const {
    return absl::StrCat(EscapedName(name_), "/", EscapedName(name));
  }
  absl::StatusOr<Place> Locate(absl::string_view name, bool create) const;
  // Gives `from` in folder `from_fd` the output's name.
  absl::Status Publish(int from_fd, const std::string& from);
  absl::Status Replace(int from_fd, const std::string& from);

  std::shared_ptr<const ModelRoot> root_;
  std::string name_;
  std::string partial_;
  Options options_;
  UniqueFd folder_;
  bool keep_ = false;
  bool finished_ = false;
};

absl::StatusOr<PartialOutput::Place> PartialOutput::Locate(absl::string_view name,
                                                           bool create) const {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("file name ", Quoted(name), " is more than one folder deep"));
  }
  for (const std::string& part : parts) RETURN_IF_ERROR(CheckFileName(part));
  if (parts.size() == 1) return Place{folder_.get(), parts[0], UniqueFd()};
  if (create && mkdirat(folder_.get(), parts[0].c_str(), 0750) != 0 && errno != EEXIST) {
    return WriteError(errno, "cannot create the folder of", Display(name), folder_.get(), 4096);
  }
  UniqueFd holder(OpenBeneath(folder_.get(), parts[0], O_RDONLY | O_DIRECTORY));
  if (holder.get() < 0) return IoError(errno, "cannot open", Display(name));
  const int fd = holder.get();
  return Place{fd, parts[1], std::move(holder)};
}

absl::Status PartialOutput::Commit() {
  RETURN_IF_ERROR(SyncTree(folder_.get(), EscapedName(name_), root_->directory().stopped()));
  if (options_.kind == Kind::kFolder) {
    RETURN_IF_ERROR(Publish(root_fd(), partial_));
  } else {
    if (!Exists(folder_.get(), name_)) {
      return absl::FailedPreconditionError(
          absl::StrCat("output file ", Quoted(name_), " was not written"));
    }
    RETURN_IF_ERROR(Publish(folder_.get(), name_));
  }
  RETURN_IF_ERROR(SyncFolder(root_fd(), EscapedName(name_)));
  finished_ = true;
  // What is still called `.NAME.partial` is the replaced version, or the empty folder of a single
  // file. The new version is complete and durable, so a failure here is left to the next sweep.
  if (Exists(root_fd(), partial_)) (void)RemoveTree(root_fd(), partial_, EscapedName(name_));
  return absl::OkStatus();
}

absl::Status PartialOutput::Publish(int from_fd, const std::string& from) {
  if (!Exists(root_fd(), name_)) {
    if (renameat2(from_fd, from.c_str(), root_fd(), name_.c_str(), RENAME_NOREPLACE) == 0) {
      return absl::OkStatus();
    }
    // Not every file system knows the flag; our lock keeps other writers of the name away.
    if (errno == EINVAL && !Exists(root_fd(), name_) &&
        renameat(from_fd, from.c_str(), root_fd(), name_.c_str()) == 0) {
      return absl::OkStatus();
    }
    if (errno != EEXIST) {
      return WriteError(errno, "cannot publish", EscapedName(name_), root_fd(), 4096);
    }
  }
  if (!options_.overwrite) {
    return absl::AlreadyExistsError(
        absl::StrCat("output ", Quoted(name_), " appeared while it was being written"));
  }
  return Replace(from_fd, from);
}

absl::Status PartialOutput::Replace(int from_fd, const std::string& from) {
  // The old version gets our lock before it gets the partial name, so that no writer that starts
  // now can take it over while it is being removed. The lock goes with `old`, after the removal.
  const UniqueFd old(OpenBeneath(root_fd(), name_, O_RDONLY | O_DIRECTORY));
  if (old.get() >= 0 && flock(old.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::AbortedError(absl::StrCat("output ", Quoted(name_), " is locked by another job"));
  }
  if (renameat2(from_fd, from.c_str(), root_fd(), name_.c_str(), RENAME_EXCHANGE) == 0) {
    RETURN_IF_ERROR(SyncFolder(root_fd(), EscapedName(name_)));
    finished_ = true;
    if (from_fd == root_fd()) (void)RemoveTree(root_fd(), partial_, EscapedName(name_));
    return absl::OkStatus();
  }
  if (errno != EINVAL && errno != ENOSYS) {
    return WriteError(errno, "cannot publish", EscapedName(name_), root_fd(), 4096);
  }
  // Without exchange: two renames, and the sweep puts the old version back if only one happened.
  const std::string aside = absl::StrCat(".", name_, kReplacedSuffix);
  if (renameat(root_fd(), name_.c_str(), root_fd(), aside.c_str()) != 0 ||
      renameat(from_fd, from.c_str(), root_fd(), name_.c_str()) != 0) {
    const absl::Status status =
        WriteError(errno, "cannot publish", EscapedName(name_), root_fd(), 4096);
    if (!Exists(root_fd(), name_)) {
      (void)renameat(root_fd(), aside.c_str(), root_fd(), name_.c_str());
    }
    return status;
  }
  RETURN_IF_ERROR(SyncFolder(root_fd(), EscapedName(name_)));
  finished_ = true;
  (void)RemoveTree(root_fd(), aside, EscapedName(name_));
  return absl::OkStatus();
}

// Takes the lock of a partial folder; a closed descriptor when a live writer has it.
UniqueFd TryLock(int root_fd, const std::string& partial) {
  UniqueFd fd(OpenBeneath(root_fd, partial, O_RDONLY | O_DIRECTORY));
  if (fd.get() >= 0 && flock(fd.get(), LOCK_EX | LOCK_NB) == 0 &&
      IsStill(root_fd, partial, fd.get())) {
    return fd;
  }
  return UniqueFd();
}

}  // namespace

absl::StatusOr<std::unique_ptr<AtomicOutput>> AtomicOutput::Create(
    std::shared_ptr<const ModelRoot> root, absl::string_view name, const Options& options) {
  RETURN_IF_ERROR(CheckModelName(name));
  const int root_fd = root->directory().fd();
  ASSIGN_OR_RETURN(UniqueFd folder, LockPartial(root_fd, name));
  auto output =
      std::make_unique<PartialOutput>(root, std::string(name), options, std::move(folder));
  if (!options.overwrite && Exists(root_fd, std::string(name))) {
    if (Exists(root_fd, absl::StrCat(PartialName(name), "/", kJournalFile))) output->KeepPartial();
    return absl::AlreadyExistsError(absl::StrCat(
        "output ", Quoted(name), " exists already; choose another name or set overwrite"));
  }
  if (!options.keep_partial) {
    const UniqueFd partial(OpenBeneath(root_fd, PartialName(name), O_RDONLY | O_DIRECTORY));
    if (partial.get() >= 0) RETURN_IF_ERROR(RemoveContents(partial.get(), EscapedName(name)));
  }
  const uint64_t free_bytes = root->FreeBytes();
  if (options.expected_bytes > free_bytes) {
    if (options.keep_partial) output->KeepPartial();
    return absl::ResourceExhaustedError(absl::StrCat("output ", Quoted(name), " needs ",
                                                     options.expected_bytes, " bytes, ", free_bytes,
                                                     " are free on the disk of the model root"));
  }
  return output;
}

std::vector<std::string> SweepPartialOutputs(const ModelRoot& root) {
  const int root_fd = root.directory().fd();
  std::vector<std::string> resumable;
  for (const std::string& entry : EntriesOf(root_fd)) {
    absl::string_view name = entry;
    if (!absl::ConsumePrefix(&name, ".")) continue;
    if (absl::ConsumeSuffix(&name, kReplacedSuffix)) {
      if (!CheckModelName(name).ok()) continue;
      const std::string published(name);
      if (Exists(root_fd, PartialName(name)) && TryLock(root_fd, PartialName(name)).get() < 0) {
        continue;  // its writer is between the two renames
      }
      if (Exists(root_fd, published)) {
        (void)RemoveTree(root_fd, entry, EscapedName(name));
      } else {
        (void)renameat(root_fd, entry.c_str(), root_fd, published.c_str());
      }
    } else if (absl::ConsumeSuffix(&name, kPartialSuffix)) {
      if (!CheckModelName(name).ok()) continue;
      const UniqueFd lock = TryLock(root_fd, entry);
      if (lock.get() < 0) continue;
      if (Exists(lock.get(), kJournalFile)) {
        resumable.emplace_back(name);
      } else {
        (void)RemoveTree(root_fd, entry, EscapedName(name));
      }
    } else if (const size_t at = name.rfind(".removed"); at != absl::string_view::npos) {
      if (CheckModelName(name.substr(0, at)).ok())
        (void)RemoveTree(root_fd, entry, "a removed model");
    }
  }
  std::sort(resumable.begin(), resumable.end());
  return resumable;
}

}  // namespace quantd
