// What Prometheus scrapes from a real server that generates.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "quant/v1/inference.grpc.pb.h"
#include "quant/v1/models.grpc.pb.h"
#include "tests/service/test_server.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

// The answer to GET /metrics: series with their values.
std::map<std::string, double> Scrape(int port) {
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(connection, request.data(), request.size()),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(connection, buffer, sizeof(buffer))) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  close(connection);
  std::map<std::string, double> series;
  for (const absl::string_view line : absl::StrSplit(answer, '\n')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(absl::StripAsciiWhitespace(line), absl::MaxSplits(' ', 1));
    double value;
    if (absl::SimpleAtod(parts.second, &value)) series[std::string(parts.first)] = value;
  }
  return series;
}

class MetricsTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.metrics_listen = "127.0.0.1:0";
    ServerTest::SetUp();
    inference_ = pb::InferenceService::NewStub(channel_);
  }

  void LoadTiny() {
    pb::LoadModelRequest request;
    request.set_name("tiny");
    pb::Model model;
    grpc::ClientContext context;
    ASSERT_TRUE(pb::ModelService::NewStub(channel_)->LoadModel(&context, request, &model).ok());
  }

  // A stream of tokens, whatever they are.
  auto Generate(grpc::ClientContext& context, int64_t tokens) {
    pb::GenerateRequest request;
    request.set_model("tiny");
    request.mutable_tokens()->add_ids(1);
    request.set_max_tokens(tokens);
    request.set_ignore_eos(true);
    return inference_->Generate(&context, request);
  }

  double Series(const std::string& name) { return Scrape(server_->metrics_port()).at(name); }

  std::unique_ptr<pb::InferenceService::Stub> inference_;
};

TEST_F(MetricsTest, BatchesAndCachesOfAModel) {
  ASSERT_NO_FATAL_FAILURE(LoadTiny());
  EXPECT_EQ(Series(R"(quantd_batch_size_count{model="tiny"})"), 0);
  EXPECT_EQ(Series(R"(quantd_kv_cache_usage_ratio{model="tiny"})"), 0);
  grpc::ClientContext context;
  const auto reader = Generate(context, 64);
  pb::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  while (reader->Read(&response)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  // One sequence alone: a step for each token.
  EXPECT_EQ(Series(R"(quantd_batch_size_bucket{model="tiny",le="1"})"), 64);
  EXPECT_EQ(Series(R"(quantd_batch_size_bucket{model="tiny",le="+Inf"})"), 64);
  EXPECT_EQ(Series(R"(quantd_batch_size_count{model="tiny"})"), 64);
  EXPECT_EQ(Series(R"(quantd_batch_size_sum{model="tiny"})"), 64);
}

// A stream that nobody reads holds its cache.
TEST_F(MetricsTest, AReservedCacheIsInUse) {
  ASSERT_NO_FATAL_FAILURE(LoadTiny());
  grpc::ClientContext context;
  const auto reader = Generate(context, 100000);
  pb::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const std::string usage = R"(quantd_kv_cache_usage_ratio{model="tiny"})";
  // A full context of the 16 that a model runs at once, while the stream runs.
  const double in_use = Series(usage);
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_NEAR(in_use, 1.0 / 16, 1e-9);
  while (Series(usage) > 0) {
  }
}

}  // namespace
}  // namespace quantd
