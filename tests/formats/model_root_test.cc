#include "formats/model_root.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "formats/mapped_file.h"
#include "tests/formats/temporary_root.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(ModelNames, RefusesPathsAndOddCharacters) {
  const std::string bad[] = {"",
                             ".",
                             "..",
                             "../x",
                             "a/../../b",
                             "/etc",
                             "~",
                             "file://a",
                             "a\\b",
                             "%2e%2e",
                             " ",
                             "a b",
                             "a\nb",
                             std::string("a\0b", 3),
                             ".hide",
                             "-x",
                             "_x",
                             std::string(129, 'a'),
                             "a/b",
                             "\xc3\xa4",
                             std::string(10000, 'a')};
  for (const std::string& name : bad) {
    const absl::Status status = CheckModelName(name);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_LT(status.message().size(), 500u);
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
  }
  for (const std::string& name :
       {std::string("a"), std::string("SmolLM2-135M_x.gguf"), std::string(128, '9')}) {
    EXPECT_TRUE(CheckModelName(name).ok()) << name;
  }
}

TEST(ModelRoot, OpensOnlyWhatLiesInside) {
  const TemporaryRoot outside;
  outside.Write("secret.gguf", "secret");
  outside.Write("m/config.json", "{}");
  const TemporaryRoot inside;
  inside.Write("plain.gguf", "hello");
  inside.Write("model/config.json", "{}");
  fs::create_symlink(outside.path() / "secret.gguf", inside.path() / "link.gguf");
  fs::create_directory_symlink(outside.path() / "m", inside.path() / "linked");
  fs::create_symlink("config.json", inside.path() / "model/alias.json");
  fs::create_directory(inside.path() / "folder.gguf");

  EXPECT_EQ((*inside.root()->OpenFile("plain.gguf"))->ReadAll(10).value(), "hello");
  EXPECT_EQ(inside.root()->Find("plain.gguf").value(), ModelRoot::EntryKind::kFile);
  EXPECT_EQ(inside.root()->Find("model").value(), ModelRoot::EntryKind::kFolder);
  for (const char* name : {"link.gguf", "linked", "absent"}) {
    const absl::Status status = inside.root()->Find(name).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << name;
    EXPECT_EQ(status.message(), "model '" + std::string(name) + "' not found in the model root");
    EXPECT_EQ(inside.root()->OpenFolder(name).status().code(), StatusCode::kNotFound);
    EXPECT_EQ(inside.root()->OpenFile(name).status().code(), StatusCode::kNotFound);
  }
  EXPECT_EQ(inside.root()->OpenFile("folder.gguf").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(inside.root()->OpenFile("../x").status().code(), StatusCode::kInvalidArgument);
  const auto folder = *inside.root()->OpenFolder("model");
  EXPECT_TRUE(folder->OpenFile("config.json").ok());
  EXPECT_EQ(folder->OpenFile("alias.json").status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(folder->Contains("alias.json"));
  for (const char* name : {"../plain.gguf", "/etc/passwd", "..", ".", "", "a\\b"}) {
    EXPECT_EQ(folder->OpenFile(name).status().code(), StatusCode::kInvalidArgument) << name;
  }
}

TEST(ModelRoot, NeverBlocksOnSpecialFiles) {
  const TemporaryRoot inside;
  ASSERT_EQ(mkfifo((inside.path() / "fifo.gguf").c_str(), 0600), 0);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string socket_path = (inside.path() / "socket.gguf").string();
  ASSERT_LT(socket_path.size(), sizeof(address.sun_path));
  socket_path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(inside.root()->Find("fifo.gguf").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(inside.root()->Find("socket.gguf").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(inside.root()->List().empty());
  close(fd);
}

TEST(ModelRoot, ListsCheckpointsOnly) {
  const TemporaryRoot inside;
  inside.Write("hf/config.json", "{}");
  inside.Write("one/model.gguf", "x");
  inside.Write("two/a.gguf", "x");
  inside.Write("two/b.gguf", "x");
  inside.Write("split/a-00001-of-00002.gguf", "x");
  inside.Write("split/a-00002-of-00002.gguf", "x");
  inside.Write("notes/readme.txt", "x");
  inside.Write("b.gguf", "x");
  inside.Write("s-00001-of-00002.gguf", "x");
  inside.Write("s-00002-of-00002.gguf", "x");
  inside.Write(".x.partial/config.json", "{}");
  inside.Write("calibration.txt", "x");
  std::vector<std::string> names;
  for (const auto& entry : inside.root()->List()) names.push_back(entry.name);
  EXPECT_THAT(names, ElementsAre("b.gguf", "hf", "one", "s-00001-of-00002.gguf", "split"));
}

TEST(ModelRoot, RemovesWholeModelsAndNothingBehindLinks) {
  const TemporaryRoot outside;
  outside.Write("kept.txt", "x");
  const TemporaryRoot inside;
  inside.Write("m/config.json", "{}");
  inside.Write("m/1_Pooling/config.json", "{}");
  fs::create_directory_symlink(outside.path(), inside.path() / "m/out");
  inside.Write("f.gguf", "x");
  EXPECT_TRUE(inside.root()->Remove("m").ok());
  EXPECT_TRUE(inside.root()->Remove("f.gguf").ok());
  EXPECT_EQ(inside.Count(), 0u);
  EXPECT_TRUE(outside.Exists("kept.txt"));
  EXPECT_EQ(inside.root()->Remove("m").code(), StatusCode::kNotFound);
}

TEST(ModelRoot, SaysWhyItCannotBeOpened) {
  const auto root = ModelRoot::Open("/nonexistent/quantd");
  EXPECT_EQ(root.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(root.status().message()), Not(HasSubstr("nonexistent")));
}

TEST(File, ReadsWithinItsBoundsOnly) {
  const TemporaryRoot inside;
  inside.Write("f.gguf", "0123456789");
  const auto file = *inside.root()->OpenFile("f.gguf");
  std::byte out[4];
  ASSERT_TRUE(file->ReadAt(6, 4, out).ok());
  EXPECT_EQ(out[3], std::byte{'9'});
  EXPECT_EQ(file->ReadAt(7, 4, out).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(file->ReadAt(UINT64_MAX, 4, out).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(file->ReadAll(9).status().code(), StatusCode::kResourceExhausted);
}

TEST(File, ReportsChangesUnderneathButNotDeletion) {
  const TemporaryRoot inside;
  inside.Write("f.gguf", std::string(100000, 'x'));
  inside.Write("g.gguf", std::string(100000, 'x'));
  const auto cut = *inside.root()->OpenFile("f.gguf");
  const auto deleted = *inside.root()->OpenFile("g.gguf");
  const auto mapping = *MappedFile::Map(cut);
  fs::resize_file(inside.path() / "f.gguf", 10);
  fs::remove(inside.path() / "g.gguf");
  std::byte out[4];
  EXPECT_EQ(cut->ReadAt(50000, 4, out).code(), StatusCode::kDataLoss);
  EXPECT_EQ(cut->ReadAt(0, 4, out).code(), StatusCode::kDataLoss);
  EXPECT_TRUE(deleted->ReadAt(50000, 4, out).ok());
  // Beyond the new end there is no page any more: reading it must not end the process.
  EXPECT_EQ(mapping->bytes()[90000], std::byte{0});
  EXPECT_EQ(mapping->bytes()[0], std::byte{'x'});
  EXPECT_EQ(mapping->CheckIntact().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantd
