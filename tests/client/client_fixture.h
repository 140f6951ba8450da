// A client of a real quantd process, and requests that tests of it send.
#ifndef QUANTD_TESTS_CLIENT_CLIENT_FIXTURE_H_
#define QUANTD_TESTS_CLIENT_CLIENT_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "client/quantd/client.h"
#include "tests/client/server_process.h"

namespace quantd {

inline quant::v1::QuantizeCheckpointRequest QuantizeRequest(const std::string& model,
                                                            const std::string& output) {
  quant::v1::QuantizeCheckpointRequest request;
  request.set_model(model);
  request.set_output_name(output);
  request.mutable_recipe()->set_method("bitsandbytes");
  (*request.mutable_recipe()->mutable_options())["bnb_4bit_quant_type"] = std::string("nf4");
  return request;
}

// A job that only a stop ends, however fast the machine: training that would take years.
inline quant::v1::QuantizeCheckpointRequest EndlessRequest(const std::string& model,
                                                           const std::string& output) {
  quant::v1::QuantizeCheckpointRequest request = QuantizeRequest(model, output);
  request.mutable_recipe()->set_method("autoround");
  auto& options = *request.mutable_recipe()->mutable_options();
  options.clear();
  options["iters"] = std::string("1000000000000");
  options["group_size"] = std::string("32");
  options["nsamples"] = std::string("2");
  options["seqlen"] = std::string("16");
  return request;
}

inline quant::v1::GenerateRequest GenerateRequest(const std::string& model, int max_tokens) {
  quant::v1::GenerateRequest request;
  request.set_model(model);
  request.set_text(std::string("hello there"));
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  return request;
}

class ClientTest : public ServerProcessTest {
 protected:
  std::unique_ptr<Client> Connect(absl::Duration retry_for = absl::Minutes(1)) {
    auto client = Client::Connect({.address = address(), .retry_for = retry_for});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  void Load(Client& client, const std::string& name) {
    quant::v1::LoadModelRequest request;
    request.set_name(name);
    const auto model = client.LoadModel(request);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->state(), quant::v1::Model::READY);
  }
  // Polls until nothing runs on the server any more; whatever works comes nowhere near the limit.
  void WaitIdle(Client& client) {
    const absl::Time limit = absl::Now() + absl::Minutes(2);
    while (true) {
      ASSERT_LT(absl::Now(), limit) << "something still runs";
      const auto status = client.GetServerStatus();
      ASSERT_TRUE(status.ok()) << status.status();
      if (status->running_operations() == 0 && status->running_sequences() == 0) return;
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
};

}  // namespace quantd

#endif  // QUANTD_TESTS_CLIENT_CLIENT_FIXTURE_H_
