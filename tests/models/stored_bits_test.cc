// Reports say of every layer what the files hold of it, to the byte.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/gguf/gguf.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "tests/models/calibration_job_fixture.h"

namespace quantd {
namespace {

using Options = std::map<std::string, std::string>;

// What makes a method quick on a tiny model, or store another set of tensors; without an entry it
// runs with its defaults.
const std::multimap<std::string, Options>& OptionsOfMethods() {
  static const std::multimap<std::string, Options> kOptions = {
      {"aqlm",
       {{"nbits_per_codebook", "5"},
        {"num_codebooks", "2"},
        {"init_max_iter", "2"},
        {"max_epochs", "1"},
        {"steps_per_epoch", "2"},
        {"finetune_max_epochs", "1"}}},
      {"autoround", {{"iters", "2"}}},
      {"awq", {{"group_size", "64"}, {"zero_point", "false"}}},
      {"awq", {{"group_size", "64"}, {"version", "gemv"}}},
      {"bitsandbytes", {}},
      {"bitsandbytes", {{"load_in_4bit", "true"}, {"bnb_4bit_use_double_quant", "true"}}},
      {"compressed-tensors", {}},
      {"compressed-tensors", {{"scheme", "W4A16_ASYM"}}},
      {"compressed-tensors", {{"scheme", "W8A8"}, {"activations", "static"}}},
      {"fp_quant", {}},
      {"fp_quant", {{"forward_dtype", "mxfp4"}, {"pseudoquantization", "true"}}},
      {"gptq", {{"group_size", "64"}}},
      {"gptq", {{"bits", "3"}, {"desc_act", "true"}}},
      {"higgs", {{"hadamard_size", "256"}}},
      {"hqq", {}},
      {"hqq", {{"nbits", "3"}}},
      {"vptq", {{"num_centroids", "-1,32"}, {"num_res_centroids", "-1,8"}, {"kiter", "2"}}},
      {"vptq",
       {{"vector_lens", "4,8"},
        {"num_centroids", "16,32"},
        {"num_res_centroids", "-1,-1"},
        {"npercent", "5"},
        {"enable_norm", "false"},
        {"kiter", "2"}}},
  };
  return kOptions;
}

class StoredBitsTest : public CalibrationJobTest {
 protected:
  // Bytes in the file or the files, by the layer that they belong to.
  std::map<std::string, uint64_t> BytesOf(const std::string& output,
                                          const std::map<std::string, uint64_t>& layers) {
    std::map<std::string, uint64_t> bytes;
    const auto folder = CheckpointFolder::Open(*root_->OpenFolder(output));
    EXPECT_TRUE(folder.ok()) << folder.status();
    if (!folder.ok()) return bytes;
    for (const std::string& name : (*folder)->names()) {
      const TensorInfo& info = *(*folder)->Find(name);
      bytes[LayerOf(name, layers)] += info.end - info.begin;
    }
    return bytes;
  }

 private:
  // The layer of that name, or the matrix whose module begins it.
  static std::string LayerOf(const std::string& tensor,
                             const std::map<std::string, uint64_t>& layers) {
    if (layers.contains(tensor)) return tensor;
    for (size_t dot = tensor.rfind('.'); dot != std::string::npos && dot > 0;
         dot = tensor.rfind('.', dot - 1)) {
      const std::string matrix = tensor.substr(0, dot) + ".weight";
      if (layers.contains(matrix)) return matrix;
    }
    return tensor;
  }
};

std::map<std::string, uint64_t> ReportedBytes(const QuantizeReport& report) {
  std::map<std::string, uint64_t> bytes;
  for (const LayerReport& layer : report.layers) {
    const double weights = static_cast<double>(layer.rows * layer.cols);
    bytes[layer.name] = static_cast<uint64_t>(std::llround(layer.bits_per_weight * weights / 8));
  }
  return bytes;
}

TEST_F(StoredBitsTest, AreThoseOfTheFilesForEveryMethod) {
  const Options none;
  for (const Method& method : AllMethods()) {
    if (method.name == "gguf") continue;
    const auto [first, last] = OptionsOfMethods().equal_range(method.name);
    std::vector<Options> variants;
    for (auto it = first; it != last; ++it) variants.push_back(it->second);
    if (variants.empty()) variants.push_back(none);
    for (size_t i = 0; i < variants.size(); ++i) {
      SCOPED_TRACE(absl::StrCat(method.name, " ", i));
      const auto recipe = MakeRecipe(method.name, variants[i]);
      ASSERT_TRUE(recipe.ok()) << recipe.status();
      const std::string output = absl::StrCat(method.name, "-", i);
      const auto report = Quantize(output, **recipe);
      ASSERT_TRUE(report.ok()) << report.status();
      const std::map<std::string, uint64_t> reported = ReportedBytes(*report);
      EXPECT_EQ(reported, BytesOf(output, reported));
    }
  }
}

TEST_F(StoredBitsTest, AreThoseOfTheFileForGguf) {
  for (const char* type : {"Q4_K_M", "Q2_K", "IQ4_XS", "Q8_0"}) {
    SCOPED_TRACE(type);
    const auto recipe = *MakeRecipe("gguf", {{"type", type}});
    const std::string output = absl::StrCat(type, ".gguf");
    const auto report = Quantize(output, *recipe);
    ASSERT_TRUE(report.ok()) << report.status();
    const auto file = root_->OpenFile(output);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto reader = GgufReader::Open(*file);
    ASSERT_TRUE(reader.ok()) << reader.status();
    std::multiset<uint64_t> stored, reported;
    for (const GgufTensorInfo& info : (*reader)->header().tensors) stored.insert(info.bytes);
    for (const auto& [name, bytes] : ReportedBytes(*report)) reported.insert(bytes);
    EXPECT_EQ(reported, stored);
  }
}

// What earlier runs stored is known from the journal.
TEST_F(StoredBitsTest, OutliveAnInterruption) {
  const Options options = {
      {"num_centroids", "-1,32"}, {"num_res_centroids", "-1,8"}, {"kiter", "2"}};
  ExpectInterruptionsLeaveNoTrace(**MakeRecipe("vptq", options), 5, 40);
}

}  // namespace
}  // namespace quantd
