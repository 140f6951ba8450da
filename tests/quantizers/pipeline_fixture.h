// Jobs on the tiny Llama of the golden data, shared by the tests of whole checkpoints.
#ifndef QUANTD_TESTS_QUANTIZERS_PIPELINE_FIXTURE_H_
#define QUANTD_TESTS_QUANTIZERS_PIPELINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quantizers/pipeline.h"

namespace quantd {

inline const std::map<std::string, std::string> kNf4 = {{"load_in_4bit", "true"},
                                                        {"bnb_4bit_quant_type", "nf4"}};

// A root with the model as `tiny`.
class PipelineTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  absl::StatusOr<QuantizeReport> Quantize(const std::string& method,
                                          const std::map<std::string, std::string>& options,
                                          OutputOptions output);
  // Puts `value` at element 1234 of model.layers.0.mlp.up_proj.weight.
  void Poison(float value);
  void RenameTensor(const std::string& from, const std::string& to);

  // Every file under a folder (or the one file), by relative name.
  std::map<std::string, std::string> Read(const std::string& name) const;
  std::vector<std::string> RootEntries() const;

  std::filesystem::path path_;
  std::shared_ptr<const ModelRoot> root_;
  JobControl control_;

 private:
  // Writes the model's tensors as `change` leaves them.
  void Rewrite(const std::function<void(std::string& name, Tensor& tensor)>& change);
};

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_PIPELINE_FIXTURE_H_
