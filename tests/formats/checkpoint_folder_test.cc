#include "formats/huggingface/checkpoint_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr char kConfig[] =
    R"({"architectures":["BertModel"],"vocab_size":9,"hidden_size":4,"intermediate_size":4,)"
    R"("num_hidden_layers":1,"num_attention_heads":1,"max_position_embeddings":9})";

std::string File(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const std::string& name : names) {
    tensors.emplace_back(name, TensorOf<float>(DType::kF32, {1}, std::vector<float>{1.5f}));
  }
  const auto bytes = *SerializeSafetensors(tensors, {});
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string Index(const std::string& map) { return "{\"weight_map\":{" + map + "}}"; }

class CheckpointFolderTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<CheckpointFolder>> Open() {
    ASSIGN_OR_RETURN(auto folder, inside_.root()->OpenFolder("m"));
    return CheckpointFolder::Open(folder);
  }
  void ExpectRefused(const std::string& message) {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_LT(status.message().size(), 600u);
  }
  const TemporaryRoot inside_;
};

TEST_F(CheckpointFolderTest, ReadsOneFileAndIgnoresOthers) {
  inside_.Write("m/config.json", kConfig);
  inside_.Write("m/model.safetensors", File({"b", "a"}));
  inside_.Write("m/logits.safetensors", "broken");
  inside_.Write("m/model.safetensors.index.json", "broken");
  inside_.Write("m/tokenizer.json", "{}");
  inside_.Write("m/README.md", "x");
  inside_.Write("m/1_Pooling/config.json", "{\"pooling_mode_cls_token\":true}");
  inside_.Write("m/modules.json", R"([{"path":"1_Pooling","type":"x.Pooling"}])");
  inside_.Write("m/generation_config.json", R"({"eos_token_id":7})");
  const auto folder = *Open();
  EXPECT_THAT(folder->names(), ElementsAre("a", "b"));
  EXPECT_EQ(folder->stored_bytes(), 8u);
  EXPECT_EQ(folder->config_json(), kConfig);
  EXPECT_EQ(folder->Read("a")->bytes.size(), 4u);
  EXPECT_EQ(folder->Find("c"), nullptr);
  const absl::Status missing = folder->Read("c").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("'c'"));
  std::vector<std::string> side_files;
  const auto contents = *folder->ReadSideFiles();
  for (const auto& [name, content] : contents) side_files.push_back(name);
  EXPECT_THAT(side_files, ElementsAre("1_Pooling/config.json", "generation_config.json",
                                      "modules.json", "tokenizer.json"));
  const ModelConfig config = *ReadModelConfig(*folder);
  EXPECT_EQ(config.pooling, "cls");
  EXPECT_THAT(config.eos_token_ids, ElementsAre(7));
}

TEST_F(CheckpointFolderTest, ReadsShardsAsOneNamespace) {
  inside_.Write("m/config.json", kConfig);
  inside_.Write("m/x-1.safetensors", File({"b", "a", "unlisted"}));
  inside_.Write("m/x-2.safetensors", File({"c"}));
  inside_.Write("m/model.safetensors.index.json",
                R"({"metadata":{"total_size":4611686018427387904},"weight_map":)"
                R"({"a":"x-1.safetensors","c":"x-2.safetensors","b":"x-1.safetensors"}})");
  const auto folder = *Open();
  EXPECT_THAT(folder->names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(folder->stored_bytes(), 12u);
  EXPECT_TRUE(folder->Read("c").ok());
}

TEST_F(CheckpointFolderTest, FindsAutoGptqsFileNames) {
  inside_.Write("m/config.json", kConfig);
  inside_.Write("m/gptq_model-4bit-128g.safetensors", File({"a"}));
  EXPECT_THAT((*Open())->names(), ElementsAre("a"));
  inside_.Write("m/gptq_model-8bit-128g.safetensors", File({"b"}));
  ExpectRefused("neither model.safetensors nor");
  inside_.Write("m/gptq_model-4bit-128g.safetensors.index.json",
                R"({"weight_map":{"b":"gptq_model-8bit-128g.safetensors"}})");
  EXPECT_THAT((*Open())->names(), ElementsAre("b"));
  inside_.Write("m/model.safetensors", File({"c"}));
  EXPECT_THAT((*Open())->names(), ElementsAre("c"));
}

TEST_F(CheckpointFolderTest, RefusesBrokenIndexes) {
  inside_.Write("m/config.json", kConfig);
  inside_.Write("secret.safetensors", File({"a"}));
  inside_.Write("m/x.safetensors", File({"a"}));
  ExpectRefused("neither model.safetensors nor");
  const std::pair<std::string, std::string> bad[] = {
      {"", "empty"},
      {"[]", "expected a JSON object"},
      {"{}", "weight_map"},
      {R"({"weight_map":["x.safetensors"]})", "weight_map"},
      {Index("\"a\":1"), "expected a file name"},
      {Index("\"a\":\"../secret.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"/proc/self/environ\""), "directly in the folder"},
      {Index("\"a\":\"/dev/zero\""), "directly in the folder"},
      {Index("\"a\":\"x/../../secret.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"x\\u0000.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"\""), "directly in the folder"},
      {Index("\"a\":\".\""), "directly in the folder"},
      {Index("\"a\":\".x.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"https://host/x.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"..\\\\x.safetensors\""), "directly in the folder"},
      {Index("\"a\":\"" + std::string(5000, 'x') + ".safetensors\""), "directly in the folder"},
      {Index("\"a\":\"model.safetensors.index.json\""), "directly in the folder"},
      {Index("\"a\":\"config.json\""), "directly in the folder"},
      {Index("\"a\":\"absent.safetensors\""), "missing"},
      {Index("\"a\":\"x.safetensors\",\"b\":\"x.safetensors\""), "'b' is not in shard"},
      {Index("\"a\":\"x.safetensors\",\"a\":\"x.safetensors\""), "twice"}};
  for (const auto& [index, message] : bad) {
    inside_.Write("m/model.safetensors.index.json", index);
    ExpectRefused(message);
  }
  std::filesystem::create_symlink(inside_.path() / "secret.safetensors",
                                  inside_.path() / "m/link.safetensors");
  inside_.Write("m/model.safetensors.index.json", Index("\"a\":\"link.safetensors\""));
  ExpectRefused("missing");
}

TEST_F(CheckpointFolderTest, NeedsAConfig) {
  inside_.Write("m/model.safetensors", File({"a"}));
  ExpectRefused("config.json");
}

// Ten groups of one or two tensors, whose bytes follow from the number.
struct Job {
  TemporaryRoot inside;
  uint64_t max_shard_bytes = 600;
  std::string fingerprint = "job";

  absl::StatusOr<std::unique_ptr<CheckpointFolderWriter>> Open(bool resume) const {
    ASSIGN_OR_RETURN(auto output,
                     AtomicOutput::Create(inside.root(), "out", {.keep_partial = resume}));
    return CheckpointFolderWriter::Create(std::move(output), {.max_shard_bytes = max_shard_bytes,
                                                              .header_reserve = 1000,
                                                              .fingerprint = fingerprint,
                                                              .resume = resume});
  }
  // Writes groups up to `end` that are not complete; returns how many were written.
  static int Write(CheckpointFolderWriter& writer, int end) {
    int written = 0;
    for (int i = 0; i < end; ++i) {
      const std::string group = absl::StrCat("layer.", i);
      if (writer.IsComplete(group)) continue;
      const std::vector<uint8_t> bytes(static_cast<size_t>(31 + 33 * i), static_cast<uint8_t>(i));
      const auto size = static_cast<int64_t>(bytes.size());
      EXPECT_TRUE(writer.Add(group + ".w", TensorOf<uint8_t>(DType::kU8, {size}, bytes)).ok());
      if (i % 2 == 1) {
        EXPECT_TRUE(writer.Add(group + ".s", MakeTensor(DType::kF16, {3})).ok());
      }
      EXPECT_TRUE(writer.CompleteGroup(group).ok());
      ++written;
    }
    return written;
  }
  absl::StatusOr<uint64_t> Finish(CheckpointFolderWriter& writer) const {
    RETURN_IF_ERROR(writer.WriteSideFile("1_Pooling/config.json", "{}"));
    return writer.Finish(kConfig);
  }
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(inside.path() / "out")) {
      if (!entry.is_regular_file()) continue;
      const std::string name = std::filesystem::relative(entry.path(), inside.path()).string();
      files[name] = inside.Read(name);
    }
    return files;
  }
};

std::map<std::string, std::string> Uninterrupted() {
  const Job job;
  auto writer = *job.Open(/*resume=*/false);
  EXPECT_EQ(Job::Write(*writer, 10), 10);
  EXPECT_TRUE(job.Finish(*writer).ok());
  return job.Files();
}

TEST(CheckpointFolderWriter, WritesShardsWithAnIndex) {
  const Job job;
  auto writer = *job.Open(/*resume=*/false);
  Job::Write(*writer, 10);
  EXPECT_EQ(writer->Add("layer.0.w", MakeTensor(DType::kU8, {1})).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->WriteSideFile("journal", "x").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->WriteSideFile("model.safetensors", "x").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->WriteSideFile("../x", "x").code(), StatusCode::kInvalidArgument);
  const uint64_t bytes = *job.Finish(*writer);
  writer.reset();
  EXPECT_EQ(job.inside.Count(), 1u);
  uint64_t total = 0;
  std::vector<std::string> names;
  const auto files = job.Files();
  for (const auto& [name, content] : files) {
    total += content.size();
    names.push_back(name);
  }
  EXPECT_EQ(bytes, total);
  EXPECT_THAT(
      names, UnorderedElementsAre(
                 "out/config.json", "out/1_Pooling/config.json", "out/model.safetensors.index.json",
                 "out/model-00001-of-00004.safetensors", "out/model-00002-of-00004.safetensors",
                 "out/model-00003-of-00004.safetensors", "out/model-00004-of-00004.safetensors"));
  const auto folder = *CheckpointFolder::Open(*job.inside.root()->OpenFolder("out"));
  EXPECT_EQ(folder->names().size(), 15u);
  EXPECT_EQ(folder->Read("layer.9.w")->bytes, std::vector<std::byte>(328, std::byte{9}));
}

TEST(CheckpointFolderWriter, WritesOneFileWithoutAnIndex) {
  Job job;
  job.max_shard_bytes = 1 << 20;
  auto writer = *job.Open(/*resume=*/false);
  Job::Write(*writer, 10);
  ASSERT_TRUE(job.Finish(*writer).ok());
  EXPECT_TRUE(job.inside.Exists("out/model.safetensors"));
  EXPECT_FALSE(job.inside.Exists("out/model.safetensors.index.json"));
}

TEST(CheckpointFolderWriter, ResumedOutputIsTheSame) {
  const auto expected = Uninterrupted();
  for (int stop = 0; stop <= 10; ++stop) {
    const Job job;
    {
      auto writer = *job.Open(/*resume=*/false);
      Job::Write(*writer, stop);
      ASSERT_TRUE(writer->Suspend().ok());
    }
    EXPECT_THAT(SweepPartialOutputs(*job.inside.root()), ElementsAre("out"));
    auto writer = *job.Open(/*resume=*/true);
    EXPECT_EQ(Job::Write(*writer, 10), 10 - stop);
    ASSERT_TRUE(job.Finish(*writer).ok());
    EXPECT_EQ(job.Files(), expected) << stop;
    EXPECT_EQ(job.inside.Count(), 1u);
  }
}

TEST(CheckpointFolderWriter, ResumeTrustsOnlyBytesThatAreThere) {
  const auto expected = Uninterrupted();
  for (const std::string damage :
       {"flip", "cut", "lose", "torn journal", "renamed", "empty journal"}) {
    const Job job;
    {
      auto writer = *job.Open(/*resume=*/false);
      Job::Write(*writer, 8);
      ASSERT_TRUE(writer->Suspend().ok());
    }
    const std::string shard = ".out.partial/shard-00002.safetensors";
    const std::string journal = ".out.partial/journal";
    std::string content = job.inside.Read(shard);
    if (damage == "flip") content[1100] ^= 1;
    if (damage == "cut") content.resize(1200);
    job.inside.Write(shard, content);
    if (damage == "lose") std::filesystem::remove(job.inside.path() / shard);
    if (damage == "renamed") {
      std::filesystem::rename(job.inside.path() / shard,
                              job.inside.path() / ".out.partial/model-00002-of-00003.safetensors");
    }
    std::string lines = job.inside.Read(journal);
    if (damage == "torn journal") lines.resize(lines.size() - 10);
    if (damage == "empty journal") lines.clear();
    job.inside.Write(journal, lines);
    auto writer = *job.Open(/*resume=*/true);
    const int redone = Job::Write(*writer, 10);
    EXPECT_EQ(redone == 2, damage == "renamed") << damage << redone;
    ASSERT_TRUE(job.Finish(*writer).ok());
    EXPECT_EQ(job.Files(), expected) << damage;
  }
}

TEST(CheckpointFolderWriter, AnotherJobCannotResume) {
  Job job;
  {
    auto writer = *job.Open(/*resume=*/false);
    Job::Write(*writer, 3);
    ASSERT_TRUE(writer->Suspend().ok());
  }
  job.fingerprint = "other";
  EXPECT_EQ(job.Open(/*resume=*/true).status().code(), StatusCode::kFailedPrecondition);
  job.fingerprint = "job";
  auto writer = *job.Open(/*resume=*/true);
  EXPECT_TRUE(writer->IsComplete("layer.2"));
  EXPECT_FALSE(writer->IsComplete("layer.3"));
}

TEST(CheckpointFolderWriter, CancelLeavesNothing) {
  const Job job;
  {
    auto writer = *job.Open(/*resume=*/false);
    Job::Write(*writer, 5);
  }
  EXPECT_EQ(job.inside.Count(), 0u);
}

TEST(CheckpointFolderWriter, ResumesAfterBeingKilled) {
  const auto expected = Uninterrupted();
  for (int stop = 1; stop <= 10; stop += 3) {
    const Job job;
    int done[2];
    ASSERT_EQ(pipe(done), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto writer = *job.Open(/*resume=*/false);
      Job::Write(*writer, stop);
      (void)!write(done[1], "x", 1);
      for (;;) pause();
    }
    char mark;
    ASSERT_EQ(read(done[0], &mark, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(done[0]);
    close(done[1]);
    EXPECT_THAT(SweepPartialOutputs(*job.inside.root()), ElementsAre("out"));
    auto writer = *job.Open(/*resume=*/true);
    Job::Write(*writer, 10);
    ASSERT_TRUE(job.Finish(*writer).ok());
    EXPECT_EQ(job.Files(), expected);
  }
}

}  // namespace
}  // namespace quantd
