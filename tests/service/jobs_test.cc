// Quantization as long-running operations, tensors in pieces, draining and credentials.
#include <fstream>
#include <future>

#include "google/longrunning/operations.grpc.pb.h"
#include "inference/grpc_service.grpc.pb.h"
#include "quant/v1/models.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "tests/service/test_server.h"

namespace quantd {
namespace {

namespace pb = quant::v1;
namespace lro = google::longrunning;
using grpc::StatusCode;

class JobsTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    quantization_ = pb::QuantizationService::NewStub(channel_);
    operations_ = lro::Operations::NewStub(channel_);
  }

  static pb::QuantizeCheckpointRequest Request(const std::string& output) {
    pb::QuantizeCheckpointRequest request;
    request.set_model("tiny");
    request.set_output_name(output);
    request.mutable_recipe()->set_method("bitsandbytes");
    (*request.mutable_recipe()->mutable_options())["load_in_4bit"] = "true";
    return request;
  }

  grpc::Status Quantize(const pb::QuantizeCheckpointRequest& request, lro::Operation* operation) {
    grpc::ClientContext context;
    return quantization_->QuantizeCheckpoint(&context, request, operation);
  }

  // Every state that a watcher sees.
  std::vector<lro::Operation> Watch(const std::string& name) {
    grpc::ClientContext context;
    pb::WatchOperationRequest request;
    request.set_name(name);
    request.mutable_interval();
    auto reader = quantization_->WatchOperation(&context, request);
    std::vector<lro::Operation> out;
    lro::Operation operation;
    while (reader->Read(&operation)) out.push_back(operation);
    EXPECT_TRUE(reader->Finish().ok());
    return out;
  }

  std::unique_ptr<pb::QuantizationService::Stub> quantization_;
  std::unique_ptr<lro::Operations::Stub> operations_;
};

TEST_F(JobsTest, QuantizesAndTellsWatchers) {
  lro::Operation operation;
  const grpc::Status status = Quantize(Request("out"), &operation);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto states = Watch(operation.name());
  ASSERT_FALSE(states.empty());
  ASSERT_TRUE(states.back().done());
  EXPECT_FALSE(states.back().has_error()) << states.back().error().message();
  pb::QuantizeReport report;
  ASSERT_TRUE(states.back().response().UnpackTo(&report));
  EXPECT_EQ(report.output_name(), "out");
  EXPECT_GT(report.layers_size(), 0);
  EXPECT_TRUE(std::filesystem::exists(root_ / "out" / "config.json"));
  // Nothing hidden is left.
  for (const auto& entry : std::filesystem::directory_iterator(root_)) {
    EXPECT_NE(entry.path().filename().string()[0], '.') << entry.path();
  }
  grpc::ClientContext wait;
  lro::WaitOperationRequest request;
  request.set_name(operation.name());
  lro::Operation waited;
  ASSERT_TRUE(operations_->WaitOperation(&wait, request, &waited).ok());
  EXPECT_TRUE(waited.done());
}

TEST_F(JobsTest, RefusesBeforeAnOperationExists) {
  const auto refuse = [&](const std::function<void(pb::QuantizeCheckpointRequest&)>& change) {
    pb::QuantizeCheckpointRequest request = Request("out");
    change(request);
    lro::Operation operation;
    return Quantize(request, &operation).error_code();
  };
  EXPECT_EQ(refuse([](auto& r) { r.set_model("absent"); }), StatusCode::NOT_FOUND);
  EXPECT_EQ(refuse([](auto& r) { r.set_model("../tiny"); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_output_name("a/b"); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_output_name(""); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_output_name("tiny"); }), StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(refuse([](auto& r) { r.clear_recipe(); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.mutable_recipe()->set_method("nonsense"); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { (*r.mutable_recipe()->mutable_options())["nonsense"] = "1"; }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.mutable_recipe()->set_quantization_config("{}"); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_max_shard_bytes(-1); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_nonfinite(static_cast<pb::NonFinite>(999)); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refuse([](auto& r) { r.set_request_id(std::string(129, 'a')); }),
            StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext context;
  lro::ListOperationsResponse list;
  ASSERT_TRUE(operations_->ListOperations(&context, {}, &list).ok());
  EXPECT_EQ(list.operations_size(), 0);
}

TEST_F(JobsTest, SameRequestIdIsOneJob) {
  pb::QuantizeCheckpointRequest request = Request("out");
  request.set_request_id("once");
  lro::Operation first, second;
  ASSERT_TRUE(Quantize(request, &first).ok());
  Watch(first.name());
  const grpc::Status again = Quantize(request, &second);  // although the output exists now
  ASSERT_TRUE(again.ok()) << again.error_message();
  EXPECT_EQ(first.name(), second.name());
}

TEST_F(JobsTest, DequantizesBack) {
  lro::Operation operation;
  ASSERT_TRUE(Quantize(Request("out"), &operation).ok());
  Watch(operation.name());
  pb::DequantizeCheckpointRequest request;
  request.set_model("out");
  request.set_output_name("plain");
  request.set_dtype("f32");
  grpc::ClientContext context;
  const grpc::Status status = quantization_->DequantizeCheckpoint(&context, request, &operation);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto states = Watch(operation.name());
  EXPECT_FALSE(states.back().has_error()) << states.back().error().message();
  EXPECT_TRUE(std::filesystem::exists(root_ / "plain" / "config.json"));
}

// Sends a float32 matrix and collects what comes back.
grpc::Status QuantizeTensor(pb::QuantizationService::Stub& stub, const std::vector<float>& values,
                            int64_t rows, int64_t columns, std::map<std::string, std::string>* out,
                            std::string* config) {
  grpc::ClientContext context;
  auto stream = stub.QuantizeTensor(&context);
  pb::QuantizeTensorRequest request;
  request.mutable_recipe()->set_method("bitsandbytes");
  (*request.mutable_recipe()->mutable_options())["load_in_4bit"] = "true";
  stream->Write(request);
  request.mutable_tensor()->set_name("weight");
  request.mutable_tensor()->set_dtype("F32");
  request.mutable_tensor()->add_shape(rows);
  request.mutable_tensor()->add_shape(columns);
  stream->Write(request);
  request.set_data(values.data(), values.size() * sizeof(float));
  stream->Write(request);
  stream->WritesDone();
  pb::TensorChunk chunk;
  std::string last;
  while (stream->Read(&chunk)) {
    if (chunk.has_tensor()) {
      last = chunk.tensor().name();
    } else if (chunk.chunk_case() == pb::TensorChunk::kData) {
      (*out)[last] += chunk.data();
    } else {
      *config = chunk.quantization_config();
    }
  }
  return stream->Finish();
}

TEST_F(JobsTest, QuantizesOneMatrix) {
  std::vector<float> values(64 * 128);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 31) - 15;
  std::map<std::string, std::string> tensors;
  std::string config;
  const grpc::Status status = QuantizeTensor(*quantization_, values, 64, 128, &tensors, &config);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(tensors["weight"].size(), values.size() / 2);
  EXPECT_NE(config.find("bitsandbytes"), std::string::npos);
  // Fewer bytes than the shape says, and a NaN.
  EXPECT_EQ(QuantizeTensor(*quantization_, values, 64, 129, &tensors, &config).error_code(),
            StatusCode::INVALID_ARGUMENT);
  values[5] = NAN;
  EXPECT_EQ(QuantizeTensor(*quantization_, values, 64, 128, &tensors, &config).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobsTest, TensorStreamNeedsItsHead) {
  grpc::ClientContext context;
  auto stream = quantization_->QuantizeTensor(&context);
  stream->WritesDone();
  pb::TensorChunk chunk;
  EXPECT_FALSE(stream->Read(&chunk));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobsTest, DrainEndsIdleStreamsAndRefusesNewCalls) {
  grpc::ClientContext idle;
  auto stream = quantization_->QuantizeTensor(&idle);
  pb::QuantizeTensorRequest head;
  head.mutable_recipe()->set_method("bitsandbytes");
  ASSERT_TRUE(stream->Write(head));
  // Answered after what came before it on the connection: the server has the stream now.
  grpc::ClientContext context;
  lro::ListOperationsResponse list;
  ASSERT_TRUE(operations_->ListOperations(&context, {}, &list).ok());
  auto stopped = std::async(std::launch::async, [this] { server_->Shutdown(); });
  pb::TensorChunk chunk;
  EXPECT_FALSE(stream->Read(&chunk));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAVAILABLE);
  stopped.get();
  lro::Operation operation;
  EXPECT_EQ(Quantize(Request("out"), &operation).error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(JobsTest, TokensAndRoles) {
  channel_.reset();
  server_.reset();
  const std::string file = (root_ / ".tokens").string();
  std::ofstream(file) << "admin-token-1 admin\nreader-token-1 read\n";
  config_.auth_token_file = file;
  Start();
  operations_ = lro::Operations::NewStub(channel_);
  const auto code = [&](const char* token, const char* operation) {
    grpc::ClientContext context;
    if (token != nullptr) context.AddMetadata("authorization", token);
    lro::CancelOperationRequest request;
    request.set_name(operation);
    google::protobuf::Empty response;
    return operations_->CancelOperation(&context, request, &response).error_code();
  };
  EXPECT_EQ(code(nullptr, "operations/x"), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code("Bearer wrong-token", "operations/x"), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code("Bearer reader-token-1", "operations/x"), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(code("Bearer admin-token-1", "operations/x"), StatusCode::NOT_FOUND);
  const auto live = inference::GRPCInferenceService::NewStub(channel_);
  grpc::ClientContext context;
  inference::ServerLiveResponse response;
  EXPECT_TRUE(live->ServerLive(&context, {}, &response).ok());
}

TEST_F(JobsTest, AddressInUseIsAnError) {
  ServerConfig config = config_;
  config.listen = "127.0.0.1:" + std::to_string(server_->port());
  config.metrics_listen = "off";
  const auto second = Server::Start(config);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("--listen"), absl::string_view::npos);
}

TEST_F(JobsTest, InProcessChannelNeedsNoSocket) {
  ServerConfig config = config_;
  config.listen = "";
  config.metrics_listen = "";
  auto server = Server::Start(config);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->port(), 0);
  const auto stub = pb::ModelService::NewStub((*server)->InProcessChannel());
  grpc::ClientContext context;
  pb::ListModelsResponse models;
  ASSERT_TRUE(stub->ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).architecture(), "LlamaForCausalLM");
}

}  // namespace
}  // namespace quantd
