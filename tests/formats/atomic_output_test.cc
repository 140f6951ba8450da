#include "formats/atomic_output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(AtomicOutput, AppearsWholeWithItsModes) {
  const TemporaryRoot inside;
  auto output = *AtomicOutput::Create(inside.root(), "out", {});
  ASSERT_TRUE(output->WriteFile("config.json", "{}").ok());
  ASSERT_TRUE(output->WriteFile("1_Pooling/config.json", "{\"a\":1}").ok());
  EXPECT_FALSE(inside.Exists("out"));
  ASSERT_TRUE(output->Commit().ok());
  output.reset();
  EXPECT_EQ(inside.Read("out/1_Pooling/config.json"), "{\"a\":1}");
  EXPECT_EQ(inside.Count(), 1u);
  struct stat info;
  ASSERT_EQ(stat((inside.path() / "out/config.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0137, 0u);
  ASSERT_EQ(stat((inside.path() / "out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0027, 0u);
}

TEST(AtomicOutput, LeavesNothingWithoutCommit) {
  const TemporaryRoot inside;
  {
    auto output = *AtomicOutput::Create(inside.root(), "out", {});
    ASSERT_TRUE(output->WriteFile("a.bin", "x").ok());
    EXPECT_EQ(inside.Count(), 1u);
  }
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(AtomicOutput, SingleFileTakesTheOutputsName) {
  const TemporaryRoot inside;
  AtomicOutput::Options options;
  options.kind = AtomicOutput::Kind::kSingleFile;
  auto output = *AtomicOutput::Create(inside.root(), "m.gguf", options);
  ASSERT_TRUE(output->WriteFile("m.gguf", "first").ok());
  ASSERT_TRUE(output->Commit().ok());
  output.reset();
  EXPECT_EQ(inside.Read("m.gguf"), "first");
  EXPECT_EQ(AtomicOutput::Create(inside.root(), "m.gguf", options).status().code(),
            StatusCode::kAlreadyExists);
  options.overwrite = true;
  output = *AtomicOutput::Create(inside.root(), "m.gguf", options);
  ASSERT_TRUE(output->WriteFile("m.gguf", "second").ok());
  EXPECT_EQ(inside.Read("m.gguf"), "first");
  ASSERT_TRUE(output->Commit().ok());
  output.reset();
  EXPECT_EQ(inside.Read("m.gguf"), "second");
  EXPECT_EQ(inside.Count(), 1u);
}

TEST(AtomicOutput, SingleFileThatWasNotWrittenIsNoOutput) {
  const TemporaryRoot inside;
  AtomicOutput::Options options;
  options.kind = AtomicOutput::Kind::kSingleFile;
  auto output = *AtomicOutput::Create(inside.root(), "m.gguf", options);
  EXPECT_EQ(output->Commit().code(), StatusCode::kFailedPrecondition);
  output.reset();
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(AtomicOutput, OverwriteKeepsTheOldVersionUntilTheEnd) {
  const TemporaryRoot inside;
  inside.Write("out/config.json", "old");
  inside.Write("out/extra.json", "old");
  EXPECT_EQ(AtomicOutput::Create(inside.root(), "out", {}).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(inside.Count(), 1u);
  AtomicOutput::Options options;
  options.overwrite = true;
  {
    auto abandoned = *AtomicOutput::Create(inside.root(), "out", options);
    ASSERT_TRUE(abandoned->WriteFile("config.json", "half").ok());
  }
  EXPECT_EQ(inside.Read("out/config.json"), "old");
  auto output = *AtomicOutput::Create(inside.root(), "out", options);
  ASSERT_TRUE(output->WriteFile("config.json", "new").ok());
  EXPECT_EQ(inside.Read("out/config.json"), "old");
  ASSERT_TRUE(output->Commit().ok());
  output.reset();
  EXPECT_EQ(inside.Read("out/config.json"), "new");
  EXPECT_FALSE(inside.Exists("out/extra.json"));
  EXPECT_EQ(inside.Count(), 1u);
}

TEST(AtomicOutput, NoticesAnOutputThatAppearedMeanwhile) {
  const TemporaryRoot inside;
  auto output = *AtomicOutput::Create(inside.root(), "out", {});
  ASSERT_TRUE(output->WriteFile("config.json", "new").ok());
  inside.Write("out/config.json", "foreign");
  EXPECT_EQ(output->Commit().code(), StatusCode::kAlreadyExists);
  output.reset();
  EXPECT_EQ(inside.Read("out/config.json"), "foreign");
  EXPECT_EQ(inside.Count(), 1u);
}

TEST(AtomicOutput, OneWriterPerName) {
  const TemporaryRoot inside;
  auto first = *AtomicOutput::Create(inside.root(), "out", {});
  EXPECT_EQ(AtomicOutput::Create(inside.root(), "out", {}).status().code(), StatusCode::kAborted);
  EXPECT_TRUE(SweepPartialOutputs(*inside.root()).empty());
  EXPECT_TRUE(first->WriteFile("a.bin", "x").ok()) << "a refused writer must not touch the first's";
  EXPECT_TRUE(AtomicOutput::Create(inside.root(), "other", {}).ok());
  first.reset();
  EXPECT_TRUE(AtomicOutput::Create(inside.root(), "out", {}).ok());
}

TEST(AtomicOutput, ExactlyOneOfManyThreadsWins) {
  const TemporaryRoot inside;
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> committed{0};
    std::atomic<int> refused{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        auto output = AtomicOutput::Create(inside.root(), "out", {});
        if (output.ok() && (*output)->WriteFile("a.bin", "x").ok() && (*output)->Commit().ok()) {
          ++committed;
        } else if (!output.ok() &&
                   (absl::IsAborted(output.status()) || absl::IsAlreadyExists(output.status()))) {
          ++refused;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(committed, 1);
    EXPECT_EQ(refused, 7);
    EXPECT_EQ(inside.Count(), 1u);
    ASSERT_TRUE(inside.root()->Remove("out").ok());
  }
}

TEST(AtomicOutput, LockHoldsBetweenProcesses) {
  const TemporaryRoot inside;
  auto first = *AtomicOutput::Create(inside.root(), "out", {});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto second = AtomicOutput::Create(inside.root(), "out", {});
    _exit(absl::IsAborted(second.status()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(AtomicOutput, RefusesWhatDoesNotFitTheDisk) {
  const TemporaryRoot inside;
  AtomicOutput::Options options;
  options.expected_bytes = UINT64_MAX;
  const absl::Status status = AtomicOutput::Create(inside.root(), "out", options).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("18446744073709551615 bytes"));
  EXPECT_EQ(inside.Count(), 0u);
}

TEST(AtomicOutput, ConfinesFileNames) {
  const TemporaryRoot inside;
  auto output = *AtomicOutput::Create(inside.root(), "out", {});
  for (const char* name : {"", ".", "..", "../x", "/x", "a/b/c", "a//b", "a/", ".hidden", "a\\b"}) {
    EXPECT_EQ(output->CreateFile(name).status().code(), StatusCode::kInvalidArgument) << name;
  }
  for (const char* name : {"", "..", "a/b", "/tmp"}) {
    EXPECT_EQ(AtomicOutput::Create(inside.root(), name, {}).status().code(),
              StatusCode::kInvalidArgument);
  }
}

TEST(AtomicOutput, ReadOnlyRootIsAPrecondition) {
  if (geteuid() == 0) GTEST_SKIP() << "root writes everywhere";
  const TemporaryRoot inside;
  fs::permissions(inside.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(AtomicOutput::Create(inside.root(), "out", {}).status().code(),
            StatusCode::kFailedPrecondition);
  fs::permissions(inside.path(), fs::perms::owner_all);
}

TEST(OutputFile, FullDiskIsReportedWithFigures) {
  OutputFile file(open("/dev/full", O_RDWR | O_CLOEXEC), "out/model.safetensors");
  const absl::Status status = file.Append(Bytes("12345"));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("out/model.safetensors"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("5 bytes needed"));
}

TEST(AtomicOutput, SweepKeepsOnlyWhatCanBeResumed) {
  const TemporaryRoot inside;
  inside.Write(".stale.partial/model.safetensors", "x");
  inside.Write(".resumable.partial/journal", "{}\n");
  inside.Write(".gone.removed0/removed/config.json", "{}");
  inside.Write(".swapped.replaced/config.json", "old");
  inside.Write("done/config.json", "new");
  inside.Write(".done.replaced/config.json", "old");
  inside.Write(".other", "not ours");
  EXPECT_THAT(SweepPartialOutputs(*inside.root()), ElementsAre("resumable"));
  EXPECT_FALSE(inside.Exists(".stale.partial"));
  EXPECT_TRUE(inside.Exists(".resumable.partial/journal"));
  EXPECT_FALSE(inside.Exists(".gone.removed0"));
  EXPECT_EQ(inside.Read("swapped/config.json"), "old");
  EXPECT_EQ(inside.Read("done/config.json"), "new");
  EXPECT_FALSE(inside.Exists(".done.replaced"));
  EXPECT_TRUE(inside.Exists(".other"));
}

TEST(AtomicOutput, ResumeGoesOnInThePartialFolder) {
  const TemporaryRoot inside;
  {
    auto output = *AtomicOutput::Create(inside.root(), "out", {});
    auto file = *output->CreateFile("data.bin");
    ASSERT_TRUE(file->Append(Bytes("first")).ok());
    output->KeepPartial();
  }
  AtomicOutput::Options options;
  options.keep_partial = true;
  auto output = *AtomicOutput::Create(inside.root(), "out", options);
  EXPECT_THAT(output->List(), ElementsAre("data.bin"));
  auto file = *output->CreateFile("data.bin");
  EXPECT_EQ(file->size(), 5u);
  ASSERT_TRUE(file->Append(Bytes("+second")).ok());
  ASSERT_TRUE(output->Commit().ok());
  EXPECT_EQ(inside.Read("out/data.bin"), "first+second");
}

// A writer killed at any moment leaves the old version or nothing, and the sweep cleans up.
TEST(AtomicOutput, SurvivesKillingTheWriter) {
  for (const bool overwrite : {false, true}) {
    for (int round = 0; round < 12; ++round) {
      const TemporaryRoot inside;
      if (overwrite) inside.Write("out/data.bin", "old");
      int progress[2];
      ASSERT_EQ(pipe(progress), 0);
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        AtomicOutput::Options options;
        options.overwrite = overwrite;
        auto output = *AtomicOutput::Create(inside.root(), "out", options);
        auto file = *output->CreateFile("data.bin");
        const std::string piece(4096, 'n');
        for (int i = 0; i < 64; ++i) {
          (void)file->Append(Bytes(piece));
          (void)!write(progress[1], "x", 1);
        }
        (void)output->Commit();
        (void)!write(progress[1], "c", 1);
        for (;;) pause();
      }
      close(progress[1]);
      // Rounds end at different points: after that many pieces, the last ones around the commit.
      char mark = 0;
      for (int i = 0; i < 1 + round * 6 && read(progress[0], &mark, 1) == 1 && mark != 'c'; ++i) {
      }
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
      close(progress[0]);
      EXPECT_TRUE(SweepPartialOutputs(*inside.root()).empty());
      const std::string content = inside.Read("out/data.bin");
      if (content.empty()) {
        EXPECT_FALSE(overwrite);
        EXPECT_EQ(inside.Count(), 0u);
      } else {
        EXPECT_TRUE(content == std::string(64 * 4096, 'n') || (overwrite && content == "old"));
        EXPECT_EQ(inside.Count(), 1u);
      }
    }
  }
}

}  // namespace
}  // namespace quantd
