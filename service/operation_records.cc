#include "service/operation_records.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "formats/atomic_output.h"
#include "google/longrunning/operations.pb.h"
#include "quant/v1/quantization.pb.h"
#include "service/log.h"
#include "service/messages.h"

namespace quantd {
namespace {

constexpr char kSuffix[] = ".operation";
constexpr size_t kMaxRecordBytes = 64 << 10;

absl::Time TimeFrom(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

class RootRecords final : public OperationRecords {
 public:
  explicit RootRecords(std::shared_ptr<const ModelRoot> root) : root_(std::move(root)) {}

  void Save(const OperationSnapshot& operation) override {
    const std::string name = FileName(operation.subject.output_name);
    const int fd = openat(root_->directory().fd(), name.c_str(),
                          O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
      return;
    }
    google::longrunning::Operation record;
    record.set_name(operation.name);
    record.mutable_metadata()->PackFrom(MetadataOf(operation));
    const std::string bytes = record.SerializeAsString();
    if (write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      unlinkat(root_->directory().fd(), name.c_str(), 0);
    }
    close(fd);
  }

  void Remove(const OperationSnapshot& operation) override {
    unlinkat(root_->directory().fd(), FileName(operation.subject.output_name).c_str(), 0);
  }

  std::vector<OperationSnapshot> LoadInterrupted() override {
    const std::vector<std::string> resumable = SweepPartialOutputs(*root_);
    const std::set<std::string> wanted(resumable.begin(), resumable.end());
    std::vector<OperationSnapshot> out;
    for (const std::string& output : resumable) {
      out.push_back(Read(output));
      out.back().state = OperationState::kInterrupted;
      out.back().status = absl::AbortedError(
          "the server stopped before the operation ended; send the request with resume to go on");
    }
    std::sort(out.begin(), out.end(),
              [](const auto& a, const auto& b) { return a.create_time < b.create_time; });
    for (const std::string& output : RecordedOutputs()) {
      if (!wanted.contains(output) && !HeldByAnother(output)) {
        unlinkat(root_->directory().fd(), FileName(output).c_str(), 0);
      }
    }
    return out;
  }

 private:
  static std::string FileName(const std::string& output) {
    return absl::StrCat(".", output, kSuffix);
  }

  // A partial output that the sweep left without calling it resumable has a live writer.
  bool HeldByAnother(const std::string& output) const {
    return faccessat(root_->directory().fd(), absl::StrCat(".", output, ".partial").c_str(), F_OK,
                     AT_SYMLINK_NOFOLLOW) == 0;
  }

  std::vector<std::string> RecordedOutputs() const {
    std::vector<std::string> outputs;
    const int fd = openat(root_->directory().fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* folder = fd < 0 ? nullptr : fdopendir(fd);
    if (folder == nullptr) {
      if (fd >= 0) {
        close(fd);
      }
      return outputs;
    }
    while (const dirent* entry = readdir(folder)) {
      absl::string_view name = entry->d_name;
      if (absl::ConsumePrefix(&name, ".") && absl::ConsumeSuffix(&name, kSuffix) &&
          CheckModelName(name).ok()) {
        outputs.emplace_back(name);
      }
    }
    closedir(folder);
    return outputs;
  }

  // What the record says; only the output's name when there is none or it is broken.
  OperationSnapshot Read(const std::string& output) const {
    OperationSnapshot snapshot;
    snapshot.subject.verb = "quantize";
    snapshot.subject.output_name = output;
    snapshot.create_time = snapshot.end_time = absl::Now();
    const int fd = openat(root_->directory().fd(), FileName(output).c_str(),
                          O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
      return snapshot;
    }
    std::string bytes(kMaxRecordBytes, '\0');
    const ssize_t size = read(fd, bytes.data(), bytes.size());
    close(fd);
    bytes.resize(size > 0 ? static_cast<size_t>(size) : 0);
    google::longrunning::Operation record;
    quant::v1::OperationMetadata metadata;
    if (!record.ParseFromString(bytes) || !record.metadata().UnpackTo(&metadata) ||
        metadata.output_name() != output || !absl::StartsWith(record.name(), "operations/")) {
      return snapshot;
    }
    snapshot.name = record.name();
    snapshot.subject = {metadata.verb(), metadata.model(), output, metadata.description()};
    snapshot.create_time = TimeFrom(metadata.create_time());
    return snapshot;
  }

  const std::shared_ptr<const ModelRoot> root_;
};

}  // namespace

std::unique_ptr<OperationRecords> NewOperationRecords(std::shared_ptr<const ModelRoot> root) {
  return std::make_unique<RootRecords>(std::move(root));
}

}  // namespace quantd
