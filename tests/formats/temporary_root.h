// A model root in a fresh folder that goes with the test.
#ifndef QUANTD_TESTS_FORMATS_TEMPORARY_ROOT_H_
#define QUANTD_TESTS_FORMATS_TEMPORARY_ROOT_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "formats/model_root.h"

namespace quantd {

class TemporaryRoot {
 public:
  TemporaryRoot() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quantd-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    root_ = *ModelRoot::Open(path_.string());
  }
  ~TemporaryRoot() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }
  const std::shared_ptr<ModelRoot>& root() const { return root_; }

  void Write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  std::string Read(const std::string& name) const {
    std::ifstream stream(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  bool Exists(const std::string& name) const {
    return std::filesystem::exists(std::filesystem::symlink_status(path_ / name));
  }
  // Everything in the root, hidden entries included.
  size_t Count() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
  std::shared_ptr<ModelRoot> root_;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_FORMATS_TEMPORARY_ROOT_H_
