// Files of a job that is told to stop: long reads, writes and waits for the disk end, and nothing
// of the output stays.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "formats/atomic_output.h"
#include "formats/disk_wait.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMegabyte = size_t{1} << 20;

// A root whose files ask it, and which says to stop when it is asked for the `stop_at`-th time.
struct StoppedRoot {
  std::atomic<int> asked{0};
  std::atomic<int> stop_at{0};  // 0: never
  std::shared_ptr<const ModelRoot> root;

  explicit StoppedRoot(const TemporaryRoot& inside)
      : root(*inside.root()->StoppedBy([this] { return ++asked == stop_at; })) {}
};

size_t OpenDescriptors() {
  return static_cast<size_t>(std::distance(fs::directory_iterator("/proc/self/fd"), {}));
}

TEST(StoppedFilesTest, ReadsEndBetweenTheirSlices) {
  const TemporaryRoot inside;
  inside.Write("model/data.bin", std::string(10 * kMegabyte, 'x'));
  StoppedRoot stopped(inside);
  const auto file = *(*stopped.root->OpenFolder("model"))->OpenFile("data.bin");
  std::string bytes(10 * kMegabyte, ' ');
  const auto read = [&] {
    return file->ReadAt(0, bytes.size(), reinterpret_cast<std::byte*>(bytes.data()));
  };
  ASSERT_TRUE(read().ok());
  EXPECT_EQ(bytes, std::string(10 * kMegabyte, 'x'));
  EXPECT_GE(stopped.asked, 3);
  const int whole = stopped.asked.exchange(0);
  stopped.stop_at = whole;
  EXPECT_TRUE(absl::IsCancelled(read()));
}

TEST(StoppedFilesTest, WritesEndBetweenTheirSlicesAndNothingStays) {
  const TemporaryRoot inside;
  StoppedRoot stopped(inside);
  auto output = *AtomicOutput::Create(stopped.root, "out", {});
  auto file = *output->CreateFile("data.bin");
  const std::vector<std::byte> bytes(5 * kMegabyte);
  stopped.stop_at = 3;
  EXPECT_TRUE(absl::IsCancelled(file->Append(bytes)));
  EXPECT_EQ(file->size(), 2 * kMegabyte);
  EXPECT_EQ(inside.Count(), 1u);
  file.reset();
  output.reset();
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(StoppedFilesTest, SyncsEnd) {
  const TemporaryRoot inside;
  StoppedRoot stopped(inside);
  const auto output = *AtomicOutput::Create(stopped.root, "out", {});
  const auto file = *output->CreateFile("data.bin");
  ASSERT_TRUE(file->Append(std::vector<std::byte>(10)).ok());
  ASSERT_TRUE(file->Sync().ok());
  stopped.stop_at = stopped.asked + 1;
  EXPECT_TRUE(absl::IsCancelled(file->Sync()));
}

TEST(StoppedFilesTest, ACommitThatIsStoppedPublishesNothing) {
  const TemporaryRoot inside;
  StoppedRoot stopped(inside);
  auto output = *AtomicOutput::Create(stopped.root, "out", {});
  ASSERT_TRUE(output->WriteFile("config.json", "{}").ok());
  stopped.stop_at = stopped.asked + 1;
  EXPECT_TRUE(absl::IsCancelled(output->Commit()));
  output.reset();
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(StoppedFilesTest, ACancelledResumeLeavesNothing) {
  const TemporaryRoot inside;
  const auto make = [&](const std::shared_ptr<const ModelRoot>& root) {
    return CheckpointFolderWriter::Create(
        *AtomicOutput::Create(root, "out", {.keep_partial = true}),
        {.fingerprint = "job", .resume = true});
  };
  {
    auto writer = *make(inside.root());
    const Tensor tensor = MakeTensor(DType::kF32, {1000});
    ASSERT_TRUE(writer->Add("a", tensor).ok());
    ASSERT_TRUE(writer->CompleteGroup("a").ok());
    ASSERT_TRUE(writer->Suspend().ok());
  }
  EXPECT_EQ(inside.Count(), 1u);
  StoppedRoot stopped(inside);
  stopped.stop_at = 1;
  EXPECT_TRUE(absl::IsCancelled(make(stopped.root).status()));
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(StoppedFilesTest, LargeFilesGoAtOnceAndAreLetGoOf) {
  const TemporaryRoot inside;
  const size_t before = OpenDescriptors();
  auto output = *AtomicOutput::Create(inside.root(), "out", {});
  for (const char* name : {"a.bin", "b.bin"}) {
    ASSERT_TRUE((*output->CreateFile(name))->Truncate(100 * kMegabyte).ok());
  }
  ASSERT_TRUE(output->RemoveFile("b.bin").ok());
  EXPECT_FALSE(inside.Exists(".out.partial/b.bin"));
  output.reset();
  EXPECT_EQ(inside.Count(), 0u);
  // By another thread, where the file system is slow.
  for (int i = 0; i < 1000 && OpenDescriptors() > before; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(DiskWaitTest, WaitsForTheCallOrGivesUp) {
  int ran = 0;
  EXPECT_TRUE(WaitForDisk([&] { ++ran; }, {}));
  EXPECT_EQ(ran, 1);
  auto release = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  int asked = 0;
  EXPECT_FALSE(WaitForDisk(
      [release, ended] {
        release->get_future().wait();
        ended->set_value();
      },
      [&] { return ++asked == 2; }));
  EXPECT_EQ(asked, 2);
  release->set_value();  // the call went on
  ended->get_future().wait();
}

}  // namespace
}  // namespace quantd
