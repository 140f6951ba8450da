// A sink that has room for scratch files and takes nothing else.
#ifndef QUANTD_TESTS_QUANTIZERS_SCRATCH_SINK_H_
#define QUANTD_TESTS_QUANTIZERS_SCRATCH_SINK_H_

#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "quantizers/checkpoint_sink.h"

namespace quantd {

class ScratchSink final : public CheckpointSink {
 public:
  absl::StatusOr<std::unique_ptr<OutputFile>> CreateScratch(absl::string_view name) override {
    const int fd = open(testing::TempDir().c_str(), O_TMPFILE | O_RDWR, 0600);
    if (fd < 0) return absl::ErrnoToStatus(errno, "no temporary file");
    EXPECT_TRUE(there.emplace(name).second) << name;
    ++created;
    return std::make_unique<OutputFile>(fd, std::string(name));
  }
  absl::Status RemoveScratch(absl::string_view name) override {
    EXPECT_EQ(there.erase(std::string(name)), 1u) << name;
    return absl::OkStatus();
  }

  bool IsComplete(const PlannedParameter&) const override { return false; }
  absl::Status WritePlain(const PlannedParameter&, SharedTensor, absl::string_view) override {
    return absl::UnimplementedError("scratch files only");
  }
  absl::StatusOr<std::vector<NamedTensor>> Encode(const PlannedParameter&,
                                                  const QuantizedTensor&) const override {
    return absl::UnimplementedError("scratch files only");
  }
  absl::Status WriteEncoded(const PlannedParameter&, std::vector<NamedTensor>,
                            absl::string_view) override {
    return absl::UnimplementedError("scratch files only");
  }
  std::optional<std::string> EarlierNote(const PlannedParameter&) const override { return {}; }
  absl::StatusOr<uint64_t> Finish() override { return 0; }
  absl::Status Suspend() override { return absl::OkStatus(); }

  std::set<std::string> there;  // files that were created and not removed
  int created = 0;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_SCRATCH_SINK_H_
