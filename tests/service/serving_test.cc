// Loading and inference through both APIs, on a real port.
#include <cstring>
#include <future>
#include <thread>

#include "inference/grpc_service.grpc.pb.h"
#include "quant/v1/evaluation.grpc.pb.h"
#include "quant/v1/inference.grpc.pb.h"
#include "quant/v1/methods.grpc.pb.h"
#include "quant/v1/models.grpc.pb.h"
#include "tests/service/test_server.h"

namespace quantd {
namespace {

namespace pb = quant::v1;
namespace oip = inference;
using grpc::StatusCode;

oip::ModelInferRequest TokenRequest(const std::vector<int64_t>& ids, int64_t rows) {
  oip::ModelInferRequest request;
  request.set_model_name("tiny");
  request.set_id("7");
  auto& input = *request.add_inputs();
  input.set_name("input_ids");
  input.set_datatype("INT64");
  input.add_shape(rows);
  input.add_shape(static_cast<int64_t>(ids.size()) / rows);
  request.add_raw_input_contents(ids.data(), ids.size() * sizeof(int64_t));
  return request;
}

class ServingTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    models_ = pb::ModelService::NewStub(channel_);
    inference_ = pb::InferenceService::NewStub(channel_);
    open_ = oip::GRPCInferenceService::NewStub(channel_);
  }

  grpc::Status Load(const std::string& name) {
    grpc::ClientContext context;
    pb::LoadModelRequest request;
    request.set_name(name);
    pb::Model model;
    return models_->LoadModel(&context, request, &model);
  }

  grpc::Status Infer(const oip::ModelInferRequest& request, oip::ModelInferResponse* response) {
    grpc::ClientContext context;
    return open_->ModelInfer(&context, request, response);
  }

  grpc::Status Generate(const pb::GenerateRequest& request,
                        std::vector<pb::GenerateResponse>* responses = nullptr) {
    grpc::ClientContext context;
    auto reader = inference_->Generate(&context, request);
    pb::GenerateResponse response;
    while (reader->Read(&response)) {
      if (responses != nullptr) responses->push_back(response);
    }
    return reader->Finish();
  }

  pb::GenerateRequest Prompt(std::vector<int32_t> ids, int max_tokens) {
    pb::GenerateRequest request;
    request.set_model("tiny");
    request.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
    request.set_max_tokens(max_tokens);
    request.set_ignore_eos(true);
    return request;
  }

  std::unique_ptr<pb::ModelService::Stub> models_;
  std::unique_ptr<pb::InferenceService::Stub> inference_;
  std::unique_ptr<oip::GRPCInferenceService::Stub> open_;
};

TEST_F(ServingTest, MethodsComeFromTheRegistry) {
  const auto stub = pb::MethodService::NewStub(channel_);
  grpc::ClientContext context, other;
  pb::ListMethodsResponse list;
  ASSERT_TRUE(stub->ListMethods(&context, {}, &list).ok());
  EXPECT_GE(list.methods_size(), 2);
  for (int i = 1; i < list.methods_size(); ++i) {
    EXPECT_LT(list.methods(i - 1).name(), list.methods(i).name());
  }
  pb::GetMethodRequest request;
  request.set_name("nonsense");
  pb::Method method;
  EXPECT_EQ(stub->GetMethod(&other, request, &method).error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ServingTest, LogitsAreTheSameRawAndTyped) {
  ASSERT_TRUE(Load("tiny").ok());
  oip::ModelInferRequest raw = TokenRequest({1, 2, 3, 4, 5, 6}, 2);
  oip::ModelInferResponse from_raw, from_typed;
  const grpc::Status status = Infer(raw, &from_raw);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(from_raw.id(), "7");
  EXPECT_EQ(from_raw.model_name(), "tiny");
  EXPECT_FALSE(from_raw.model_version().empty());
  ASSERT_EQ(from_raw.outputs_size(), 1);
  EXPECT_EQ(from_raw.outputs(0).name(), "logits");
  ASSERT_EQ(from_raw.outputs(0).shape_size(), 3);
  EXPECT_EQ(from_raw.outputs(0).shape(0), 2);
  EXPECT_EQ(from_raw.outputs(0).shape(1), 3);
  EXPECT_EQ(from_raw.raw_output_contents(0).size(),
            static_cast<size_t>(4 * 2 * 3 * from_raw.outputs(0).shape(2)));
  oip::ModelInferRequest typed = raw;
  typed.clear_raw_input_contents();
  for (int id = 1; id <= 6; ++id) {
    typed.mutable_inputs(0)->mutable_contents()->add_int64_contents(id);
  }
  ASSERT_TRUE(Infer(typed, &from_typed).ok());
  EXPECT_EQ(from_raw.raw_output_contents(0), from_typed.raw_output_contents(0));
}

TEST_F(ServingTest, RefusesBadTensorsByName) {
  ASSERT_TRUE(Load("tiny").ok());
  const auto code = [&](const oip::ModelInferRequest& request) {
    oip::ModelInferResponse response;
    return Infer(request, &response).error_code();
  };
  oip::ModelInferRequest request = TokenRequest({1, -1}, 1);
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = TokenRequest({1, int64_t{1} << 40}, 1);
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = TokenRequest({1, 2}, 1);
  request.mutable_inputs(0)->set_name("nonsense");
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = TokenRequest({1, 2}, 1);
  request.mutable_inputs(0)->set_datatype("FP32");
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = TokenRequest({1, 2}, 1);
  request.add_outputs()->set_name("nonsense");
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = TokenRequest({1, 2}, 1);
  request.set_model_version("2");
  EXPECT_EQ(code(request), StatusCode::NOT_FOUND);
  request = TokenRequest(std::vector<int64_t>(100000, 1), 1);
  EXPECT_EQ(code(request), StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(code(TokenRequest({1, 2}, 1)), StatusCode::OK);  // afterwards all is well
}

TEST_F(ServingTest, UnknownAndUnloadedModelsDiffer) {
  oip::ModelInferRequest request = TokenRequest({1}, 1);
  oip::ModelInferResponse response;
  EXPECT_EQ(Infer(request, &response).error_code(), StatusCode::UNAVAILABLE);
  request.set_model_name("absent");
  const grpc::Status unknown = Infer(request, &response);
  EXPECT_EQ(unknown.error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(unknown.error_message().find("Request for unknown model"), 0u);
  for (const char* name : {"../x", "a/../../b", "/etc/passwd", "~", "", ".", "..", "%2e%2e", " "}) {
    EXPECT_EQ(Load(name).error_code(), StatusCode::INVALID_ARGUMENT) << name;
  }
  EXPECT_EQ(Load("absent").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Generate(Prompt({1}, 1)).error_code(), StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServingTest, ConcurrentLoadsJoinAndUnloadGivesMemoryBack) {
  std::vector<std::future<grpc::Status>> loads;
  for (int i = 0; i < 20; ++i) {
    loads.push_back(std::async(std::launch::async, [this] { return Load("tiny"); }));
  }
  for (auto& load : loads) {
    const grpc::Status status = load.get();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  grpc::ClientContext context, again;
  pb::UnloadModelRequest request;
  request.set_name("tiny");
  pb::UnloadModelResponse response;
  ASSERT_TRUE(models_->UnloadModel(&context, request, &response).ok());
  EXPECT_GT(response.released_bytes(), 0);
  EXPECT_EQ(models_->UnloadModel(&again, request, &response).error_code(),
            StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServingTest, GeneratesTheSameFromTheSameSeed) {
  ASSERT_TRUE(Load("tiny").ok());
  pb::GenerateRequest request = Prompt({1, 5, 9}, 6);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(3);
  const auto run = [&] {
    std::vector<pb::GenerateResponse> responses;
    const grpc::Status status = Generate(request, &responses);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::vector<int32_t> ids;
    for (const auto& response : responses) {
      ids.insert(ids.end(), response.token_ids().begin(), response.token_ids().end());
    }
    EXPECT_EQ(responses.back().finish_reason(), pb::LENGTH);
    EXPECT_EQ(responses.back().usage().prompt_tokens(), 3);
    return ids;
  };
  const std::vector<int32_t> first = run();
  EXPECT_EQ(first.size(), 6u);
  EXPECT_EQ(first, run());
}

TEST_F(ServingTest, RefusesBadGenerationRequests) {
  ASSERT_TRUE(Load("tiny").ok());
  const auto code = [&](const std::function<void(pb::GenerateRequest&)>& change) {
    pb::GenerateRequest request = Prompt({1, 2}, 4);
    change(request);
    return Generate(request).error_code();
  };
  EXPECT_EQ(code([](auto& r) { r.set_max_tokens(-1); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_sampling()->set_temperature(-1); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_sampling()->set_temperature(NAN); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_sampling()->set_top_p(7); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_sampling()->set_top_k(-1); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.add_stop(""); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) {
              for (int i = 0; i < 17; ++i) r.add_stop("x");
            }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.clear_prompt(); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_tokens()->clear_ids(); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_tokens()->set_ids(0, 1 << 30); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& r) { r.mutable_tokens()->mutable_ids()->Resize(100000, 1); }),
            StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(code([](auto& r) { r.set_text("no tokenizer"); }), StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServingTest, CancelledStreamsEndAndUnloadWaitsForThem) {
  ASSERT_TRUE(Load("tiny").ok());
  grpc::ClientContext context;
  auto reader = inference_->Generate(&context, Prompt({1, 2}, 100000));
  pb::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  grpc::ClientContext unload;
  pb::UnloadModelRequest request;
  request.set_name("tiny");
  pb::UnloadModelResponse released;
  EXPECT_TRUE(models_->UnloadModel(&unload, request, &released).ok());
}

TEST_F(ServingTest, ScoresTokens) {
  ASSERT_TRUE(Load("tiny").ok());
  pb::ScoreRequest request;
  request.set_model("tiny");
  request.set_top_n(2);
  for (const int id : {1, 5, 9, 13}) request.mutable_tokens()->add_ids(id);
  grpc::ClientContext context;
  pb::ScoreResponse response;
  const grpc::Status status = inference_->Score(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.tokens_size(), 4);
  EXPECT_EQ(response.tokens(0).logprob(), 0);
  EXPECT_EQ(response.tokens(1).top_ids_size(), 2);
  EXPECT_LT(response.total_logprob(), 0);
}

TEST_F(ServingTest, StreamAnswersEachRequestAndSurvivesErrors) {
  ASSERT_TRUE(Load("tiny").ok());
  grpc::ClientContext context;
  auto stream = open_->ModelStreamInfer(&context);
  oip::ModelInferRequest good = TokenRequest({1, 2}, 1), bad = TokenRequest({1, 2}, 1);
  good.set_id("good");
  bad.set_id("bad");
  bad.set_model_name("absent");
  ASSERT_TRUE(stream->Write(bad));
  ASSERT_TRUE(stream->Write(good));
  stream->WritesDone();
  std::map<std::string, oip::ModelStreamInferResponse> responses;
  oip::ModelStreamInferResponse response;
  while (stream->Read(&response)) responses[response.infer_response().id()] = response;
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(responses.size(), 2u);
  EXPECT_FALSE(responses["bad"].error_message().empty());
  EXPECT_TRUE(responses["good"].error_message().empty());
  EXPECT_TRUE(
      responses["good"].infer_response().parameters().at("triton_final_response").bool_param());
}

TEST_F(ServingTest, StreamEndsWithTheStatusWhenAskedTo) {
  grpc::ClientContext context;
  context.AddMetadata("triton_grpc_error", "true");
  auto stream = open_->ModelStreamInfer(&context);
  oip::ModelInferRequest bad = TokenRequest({1, 2}, 1);
  bad.set_model_name("absent");
  ASSERT_TRUE(stream->Write(bad));
  oip::ModelStreamInferResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ServingTest, RepositoryAndServerRpcs) {
  const auto call = [](auto method) {
    grpc::ClientContext context;
    const grpc::Status status = method(&context);
    EXPECT_TRUE(status.ok()) << status.error_message();
  };
  oip::ServerLiveResponse live;
  call([&](auto* c) { return open_->ServerLive(c, {}, &live); });
  EXPECT_TRUE(live.live());
  oip::ServerReadyResponse ready;
  call([&](auto* c) { return open_->ServerReady(c, {}, &ready); });
  EXPECT_TRUE(ready.ready());
  oip::RepositoryModelLoadRequest kserve;
  kserve.set_repository_name("tiny");  // KServe's shape: the name is field 1
  oip::RepositoryModelLoadResponse loaded;
  call([&](auto* c) { return open_->RepositoryModelLoad(c, kserve, &loaded); });
  EXPECT_EQ(loaded.model_name(), "tiny");
  EXPECT_TRUE(loaded.isloaded());
  oip::RepositoryIndexResponse index;
  call([&](auto* c) { return open_->RepositoryIndex(c, {}, &index); });
  ASSERT_EQ(index.models_size(), 1);
  EXPECT_EQ(index.models(0).state(), "READY");
  oip::ModelMetadataRequest metadata_request;
  metadata_request.set_name("tiny");
  oip::ModelMetadataResponse metadata;
  call([&](auto* c) { return open_->ModelMetadata(c, metadata_request, &metadata); });
  EXPECT_EQ(metadata.inputs(0).name(), "input_ids");
  EXPECT_EQ(metadata.outputs(0).name(), "logits");
  oip::ModelInferResponse response;
  ASSERT_TRUE(Infer(TokenRequest({1, 2}, 1), &response).ok());
  oip::ModelStatisticsResponse statistics;
  call([&](auto* c) { return open_->ModelStatistics(c, {}, &statistics); });
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).inference_count(), 1u);
  oip::RepositoryModelUnloadRequest unload;
  unload.set_model_name("tiny");
  oip::RepositoryModelUnloadResponse unloaded;
  call([&](auto* c) { return open_->RepositoryModelUnload(c, unload, &unloaded); });
  EXPECT_TRUE(unloaded.isunloaded());
  oip::ModelReadyRequest model_ready;
  model_ready.set_name("tiny");
  oip::ModelReadyResponse model_state;
  call([&](auto* c) { return open_->ModelReady(c, model_ready, &model_state); });
  EXPECT_FALSE(model_state.ready());
  grpc::ClientContext context;
  oip::SystemSharedMemoryStatusResponse shared;
  EXPECT_EQ(open_->SystemSharedMemoryStatus(&context, {}, &shared).error_code(),
            StatusCode::UNIMPLEMENTED);
}

TEST_F(ServingTest, RequestIdsAreEchoed) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id-1");
  oip::ServerLiveResponse live;
  ASSERT_TRUE(open_->ServerLive(&context, {}, &live).ok());
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto it = trailers.find("x-request-id");
  ASSERT_NE(it, trailers.end());
  EXPECT_EQ(std::string(it->second.data(), it->second.size()), "my-id-1");
}

TEST_F(ServingTest, MemoryLimitIsNamedWithFigures) {
  channel_.reset();
  server_.reset();
  config_.memory_limit = 100000;
  Start();
  models_ = pb::ModelService::NewStub(channel_);
  const grpc::Status status = Load("tiny");
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("100000"), std::string::npos) << status.error_message();
}

}  // namespace
}  // namespace quantd
