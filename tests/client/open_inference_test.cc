// An encoder through the Open Inference Protocol of a real quantd process.
#include <cmath>
#include <cstring>

#include "inference/grpc_service.grpc.pb.h"
#include "tests/client/server_process.h"

namespace quantd {
namespace {

namespace oip = inference;

std::vector<float> Floats(const std::string& raw) {
  std::vector<float> values(raw.size() / sizeof(float));
  memcpy(values.data(), raw.data(), raw.size());
  return values;
}

void AddIds(oip::ModelInferRequest& request, const char* name, const std::vector<int64_t>& values,
            int64_t rows) {
  auto& input = *request.add_inputs();
  input.set_name(name);
  input.set_datatype(std::string("INT64"));
  input.add_shape(rows);
  input.add_shape(static_cast<int64_t>(values.size()) / rows);
  request.add_raw_input_contents(values.data(), values.size() * sizeof(int64_t));
}

class OpenInferenceTest : public ServerProcessTest {
 protected:
  void SetUp() override {
    ServerProcessTest::SetUp();
    CopyModel("encoder");
    Start();
    stub_ = oip::GRPCInferenceService::NewStub(
        grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    oip::RepositoryModelLoadRequest load;
    load.set_model_name(std::string("encoder"));
    oip::RepositoryModelLoadResponse loaded;
    const grpc::Status status = stub_->RepositoryModelLoad(&context, load, &loaded);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  oip::ModelInferResponse Infer(oip::ModelInferRequest request) {
    request.set_model_name(std::string("encoder"));
    grpc::ClientContext context;
    oip::ModelInferResponse response;
    const grpc::Status status = stub_->ModelInfer(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::unique_ptr<oip::GRPCInferenceService::Stub> stub_;
};

TEST_F(OpenInferenceTest, TextGivesHiddenStatesAndUnitEmbeddings) {
  oip::ModelInferRequest request;
  auto& input = *request.add_inputs();
  input.set_name(std::string("text_input"));
  input.set_datatype(std::string("BYTES"));
  input.add_shape(2);
  input.mutable_contents()->add_bytes_contents("A cat sleeps.");
  input.mutable_contents()->add_bytes_contents("the dog");
  const oip::ModelInferResponse response = Infer(request);
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_EQ(response.outputs(0).name(), "last_hidden_state");
  EXPECT_EQ(response.outputs(1).name(), "sentence_embedding");
  // [CLS] a cat sleep ##s . [SEP]: 7 tokens are the longest row.
  ASSERT_EQ(response.outputs(0).shape_size(), 3);
  EXPECT_EQ(response.outputs(0).shape(0), 2);
  EXPECT_EQ(response.outputs(0).shape(1), 7);
  EXPECT_EQ(response.outputs(0).shape(2), 32);
  const std::vector<float> sentences = Floats(response.raw_output_contents(1));
  ASSERT_EQ(sentences.size(), 64u);
  for (int row = 0; row < 2; ++row) {
    double sum = 0;
    for (int i = 0; i < 32; ++i) sum += std::pow(sentences[row * 32 + i], 2);
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

TEST_F(OpenInferenceTest, PaddingChangesNothing) {
  oip::ModelInferRequest alone, padded;
  AddIds(alone, "input_ids", {2, 5, 6, 3}, 1);
  AddIds(alone, "attention_mask", {1, 1, 1, 1}, 1);
  AddIds(padded, "input_ids", {2, 5, 6, 3, 0, 0, 2, 11, 7, 10, 9, 3}, 2);
  AddIds(padded, "attention_mask", {1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1}, 2);
  const std::vector<float> one = Floats(Infer(alone).raw_output_contents(1));
  const std::vector<float> two = Floats(Infer(padded).raw_output_contents(1));
  ASSERT_EQ(one.size(), 32u);
  ASSERT_EQ(two.size(), 64u);
  for (int i = 0; i < 32; ++i) EXPECT_NEAR(one[i], two[i], 1e-5) << i;
}

}  // namespace
}  // namespace quantd
