// When the client repeats a call, and when it stops.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "quant/v1/models.grpc.pb.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "tests/client/client_fixture.h"

namespace quantd {
namespace {

TEST_F(ClientTest, WaitsForAServerThatComesUpLate) {
  CopyModel("decoder");
  const auto client = Connect();
  EXPECT_TRUE(absl::IsUnavailable(client->WaitReady(absl::Milliseconds(50))));
  std::thread late([this] {
    absl::SleepFor(absl::Milliseconds(300));
    Start();
  });
  const auto methods = client->ListMethods({.timeout = absl::Minutes(1)});
  late.join();
  ASSERT_TRUE(methods.ok()) << methods.status();
  EXPECT_GT(methods->methods_size(), 3);
  EXPECT_TRUE(client->WaitReady(absl::Minutes(1)).ok());
}

TEST_F(ClientTest, RetriesEndWithTheirTime) {
  EXPECT_TRUE(absl::IsUnavailable(Connect(absl::ZeroDuration())->GetServerStatus().status()));
  const absl::Time start = absl::Now();
  const auto status = Connect(absl::Milliseconds(400))->GetServerStatus().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(400));
}

TEST_F(ClientTest, DeadlineAndCancellationEndRetries) {
  const auto client = Connect(absl::InfiniteDuration());
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      client->GetServerStatus({.timeout = absl::Milliseconds(300)}).status()));
  Cancellation cancellation;
  std::thread cancel([&cancellation] {
    absl::SleepFor(absl::Milliseconds(300));
    cancellation.Cancel();
  });
  const absl::Status status = client->GetServerStatus({.cancellation = &cancellation}).status();
  cancel.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

// Refuses as a server that is shutting down, as often as it is told to.
class BusyService final : public quant::v1::ModelService::Service {
 public:
  explicit BusyService(int refusals,
                       grpc::Status refusal = {grpc::StatusCode::UNAVAILABLE, "shutting down"})
      : refusals_(refusals), refusal_(std::move(refusal)) {}
  grpc::Status GetServerStatus(grpc::ServerContext*, const quant::v1::GetServerStatusRequest*,
                               quant::v1::ServerStatus*) override {
    ++calls_;
    if (calls_ <= refusals_) return refusal_;
    return grpc::Status::OK;
  }
  int calls() const { return calls_; }

 private:
  const int refusals_;
  const grpc::Status refusal_;
  std::atomic<int> calls_{0};
};

TEST_F(ClientTest, AsksAsOftenAsItTakes) {
  BusyService service(7);  // more often than gRPC's own retries would ask
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const auto status = Connect()->GetServerStatus();
  EXPECT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(service.calls(), 8);
  // Other errors are final.
  EXPECT_EQ(Connect()->ListModels({}).status().code(), absl::StatusCode::kUnimplemented);
}

// gRPC calls it CANCELLED, by which whoever follows an operation would give it up.
TEST_F(ClientTest, ACallThatAStoppingServerCutsOffWasUnavailable) {
  const auto ask = [this](const char* message, int refusals, absl::Duration retry_for) {
    BusyService service(refusals, {grpc::StatusCode::CANCELLED, message});
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    builder.RegisterService(&service);
    const auto server = builder.BuildAndStart();
    return Connect(retry_for)->GetServerStatus().status().code();
  };
  EXPECT_EQ(ask("CANCELLED", 1, absl::Minutes(1)), absl::StatusCode::kOk);
  EXPECT_EQ(ask("CANCELLED", 1000, absl::ZeroDuration()), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ask("the load was cancelled", 1, absl::Minutes(1)), absl::StatusCode::kCancelled);
}

// Starts an operation, but is slow to say so the first time.
class SlowStart final : public quant::v1::QuantizationService::Service {
 public:
  grpc::Status QuantizeCheckpoint(grpc::ServerContext* context,
                                  const quant::v1::QuantizeCheckpointRequest* request,
                                  google::longrunning::Operation* response) override {
    ids_.push_back(request->request_id());
    while (ids_.size() == 1 && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    response->set_name("operations/" + request->request_id());
    return grpc::Status::OK;
  }
  const std::vector<std::string>& ids() const { return ids_; }

 private:
  std::vector<std::string> ids_;
};

class CancelledNames final : public google::longrunning::Operations::Service {
 public:
  grpc::Status CancelOperation(grpc::ServerContext*,
                               const google::longrunning::CancelOperationRequest* request,
                               google::protobuf::Empty*) override {
    names_.push_back(request->name());
    return grpc::Status::OK;
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

// Nobody else could: the operation's name never arrived.
TEST_F(ClientTest, GivingUpDuringTheStartCancelsWhatWasStarted) {
  for (const bool in_process : {false, true}) {
    SCOPED_TRACE(in_process);
    SlowStart starts;
    CancelledNames cancelled;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    builder.RegisterService(&starts);
    builder.RegisterService(&cancelled);
    const auto server = builder.BuildAndStart();
    const auto client =
        in_process ? Client::FromChannel(server->InProcessChannel({}), {}) : Connect();
    const auto report =
        client->Quantize(QuantizeRequest("a", "b"), {}, {.timeout = absl::Milliseconds(300)});
    EXPECT_TRUE(absl::IsDeadlineExceeded(report.status())) << report.status();
    ASSERT_EQ(starts.ids().size(), 2);
    EXPECT_FALSE(starts.ids()[0].empty());
    EXPECT_EQ(starts.ids()[0], starts.ids()[1]);
    EXPECT_EQ(cancelled.names(), std::vector<std::string>({"operations/" + starts.ids()[0]}));
  }
}

TEST_F(ClientTest, FindsTheServersSuccessor) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  ASSERT_TRUE(client->GetServerStatus().ok());
  EXPECT_EQ(Stop(), 0);
  std::thread successor([this] {
    absl::SleepFor(absl::Seconds(3));  // longer than gRPC's own retries last
    Start();
  });
  const auto models = client->ListModels({}, {.timeout = absl::Minutes(1)});
  successor.join();
  ASSERT_TRUE(models.ok()) << models.status();
  EXPECT_EQ(models->models_size(), 1);
}

}  // namespace
}  // namespace quantd
