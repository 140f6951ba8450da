#include "tests/quantizers/pipeline_fixture.h"

#include <algorithm>
#include <fstream>

#include "core/float_types.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "tests/test_data.h"

namespace quantd {

namespace fs = std::filesystem;

void PipelineTest::SetUp() {
  path_ =
      fs::path(testing::TempDir()) /
      (std::string("pipeline-") + testing::UnitTest::GetInstance()->current_test_info()->name());
  fs::remove_all(path_);
  fs::create_directories(path_ / "tiny");
  const fs::path golden = TestData("golden/tiny-llama");
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
    if (fs::exists(golden / name)) fs::copy_file(golden / name, path_ / "tiny" / name);
  }
  auto root = ModelRoot::Open(path_.string());
  ASSERT_TRUE(root.ok()) << root.status();
  root_ = *root;
}

void PipelineTest::TearDown() { fs::remove_all(path_); }

absl::StatusOr<QuantizeReport> PipelineTest::Quantize(
    const std::string& method, const std::map<std::string, std::string>& options,
    OutputOptions output) {
  auto recipe = MakeRecipe(method, options);
  if (!recipe.ok()) return recipe.status();
  return QuantizeCheckpoint(root_, "tiny", **recipe, output, control_);
}

void PipelineTest::Poison(float value) {
  Rewrite([value](std::string& name, Tensor& tensor) {
    if (name != "model.layers.0.mlp.up_proj.weight") return;
    StoreFloats(tensor.dtype, &value, 1, tensor.bytes.data() + 1234 * SizeOf(tensor.dtype));
  });
}

void PipelineTest::RenameTensor(const std::string& from, const std::string& to) {
  Rewrite([&](std::string& name, Tensor&) {
    if (name == from) name = to;
  });
}

void PipelineTest::Rewrite(const std::function<void(std::string& name, Tensor& tensor)>& change) {
  const auto folder = CheckpointFolder::Open(*root_->OpenFolder("tiny"));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (std::string name : (*folder)->names()) {
    Tensor tensor = *(*folder)->Read(name);
    change(name, tensor);
    tensors.emplace_back(name, std::move(tensor));
  }
  const std::vector<std::byte> bytes = *SerializeSafetensors(tensors, {});
  std::ofstream(path_ / "tiny" / "model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

std::map<std::string, std::string> PipelineTest::Read(const std::string& name) const {
  std::map<std::string, std::string> files;
  const auto add = [&files](const fs::path& file, const std::string& key) {
    std::ifstream stream(file, std::ios::binary);
    files[key] = std::string(std::istreambuf_iterator<char>(stream), {});
  };
  if (fs::is_regular_file(path_ / name)) {
    add(path_ / name, name);
    return files;
  }
  for (const auto& entry : fs::recursive_directory_iterator(path_ / name)) {
    if (entry.is_regular_file()) {
      add(entry.path(), fs::relative(entry.path(), path_ / name).string());
    }
  }
  return files;
}

std::vector<std::string> PipelineTest::RootEntries() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace quantd
