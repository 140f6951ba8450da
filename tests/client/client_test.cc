// libquantd_client against a real quantd process: every way a call can go.
#include "client/quantd/client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "absl/time/clock.h"
#include "quant/v1/models.grpc.pb.h"
#include "tests/client/client_fixture.h"

namespace quantd {
namespace {

TEST_F(ClientTest, QuantizesWithProgressThenLoadsAndStreams) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  std::vector<int64_t> done;
  int64_t total = 0;
  const auto caller = std::this_thread::get_id();
  const auto report = client->Quantize(QuantizeRequest("decoder", "nf4"),
                                       [&](const quant::v1::Progress& progress) {
                                         EXPECT_EQ(std::this_thread::get_id(), caller);
                                         done.push_back(progress.tensors_done());
                                         total = progress.tensors_total();
                                       },
                                       {.timeout = absl::Minutes(5)});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->output_name(), "nf4");
  EXPECT_EQ(report->layers_size(), 21);
  ASSERT_FALSE(done.empty());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), total);

  Load(*client, "nf4");
  std::string streamed;
  int chunks = 0, tokens = 0;
  const auto last = client->Generate(GenerateRequest("nf4", 12), [&](const auto& chunk) {
    streamed += chunk.text() + chunk.raw_text();
    tokens += chunk.token_ids_size();
    ++chunks;
    return true;
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_GT(chunks, 1);
  EXPECT_EQ(tokens, 12);
  EXPECT_FALSE(streamed.empty());
  EXPECT_EQ(last->finish_reason(), quant::v1::LENGTH);
  EXPECT_EQ(last->usage().generated_tokens(), 12);
}

TEST_F(ClientTest, ErrorsKeepTheServersCodeAndMessage) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  EXPECT_TRUE(absl::IsNotFound(client->GetModel("absent").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->GetModel("../decoder").status()));
  const auto unloaded = client->Generate(GenerateRequest("decoder", 1), {});
  EXPECT_TRUE(absl::IsFailedPrecondition(unloaded.status())) << unloaded.status();
  EXPECT_NE(unloaded.status().message().find("decoder"), absl::string_view::npos);
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect({.address = ""}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect({.tls_cert = "x"}).status()));
}

TEST_F(ClientTest, TextThatIsNotUtf8IsNamed) {
  Start();
  const auto client = Connect();
  const auto expect = [](const absl::Status& status, absl::string_view message) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(status.message(), message);
  };
  expect(client->GetModel("gr\xfc\xdf").status(), "name is not UTF-8, from byte 2 on");
  quant::v1::QuantizeCheckpointRequest request;
  request.mutable_recipe()->set_quantization_config("{\"\xe2\x82\xac\": \"\xe2\x82\"}");
  expect(client->Quantize(request).status(),
         "recipe.quantization_config is not UTF-8, from byte 9 on");
  quant::v1::GenerateRequest generate = GenerateRequest("decoder", 1);
  generate.add_stop("end");
  generate.add_stop("\xff");
  expect(client->Generate(generate, {}).status(), "stop[1] is not UTF-8, from byte 0 on");
  expect(client->Watch("operations/\xc0\xaf", {}).status(), "name is not UTF-8, from byte 11 on");
  TensorData weight;
  weight.spec.set_dtype("\x80");
  expect(client->QuantizeTensor(quant::v1::Recipe(), weight).status(),
         "dtype is not UTF-8, from byte 0 on");
}

TEST_F(ClientTest, TensorsGoThereAndBack) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  // Larger than one chunk of the stream.
  std::vector<float> values(1024 * 512);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) - 50;
  TensorData weight;
  weight.spec.set_name("weight");
  weight.spec.set_dtype("F32");
  weight.spec.add_shape(1024);
  weight.spec.add_shape(512);
  weight.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  quant::v1::Recipe recipe;
  recipe.set_method("bitsandbytes");
  recipe.set_bits(8);
  const auto quantized = client->QuantizeTensor(recipe, weight);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  const auto back = client->DequantizeTensor(*quantized, "f32");
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->bytes.size(), weight.bytes.size());
  std::vector<float> restored(values.size());
  memcpy(restored.data(), back->bytes.data(), back->bytes.size());
  for (size_t i = 0; i < values.size(); ++i) {
    // Half a step of int8 over rows whose largest entry is 50, after upstream's float16.
    ASSERT_NEAR(restored[i], values[i], 50.0 / 127 * 0.51 + 0.03) << i;
  }
}

TEST_F(ClientTest, DeadlineEndsTheCallAndTheOperation) {
  CopyModel("deep");
  Start();
  const auto client = Connect();
  const auto report =
      client->Quantize(EndlessRequest("deep", "late"), {}, {.timeout = absl::Milliseconds(60)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(report.status())) << report.status();
  WaitIdle(*client);
  EXPECT_FALSE(Exists("late"));
  EXPECT_FALSE(Exists(".late.partial"));
  Load(*client, "deep");
  const auto text =
      client->Generate(GenerateRequest("deep", 400), {}, {.timeout = absl::Milliseconds(60)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(text.status())) << text.status();
  WaitIdle(*client);
}

TEST_F(ClientTest, CancellationEndsEveryCallItWasGivenTo) {
  CopyModel("deep");
  Start();
  const auto client = Connect();
  Cancellation cancellation;
  const auto report = client->Quantize(EndlessRequest("deep", "cut"),
                                       [&](const auto& progress) {
                                         if (progress.block() > 0) cancellation.Cancel();
                                       },
                                       {.cancellation = &cancellation});
  EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
  WaitIdle(*client);
  EXPECT_FALSE(Exists("cut"));
  EXPECT_FALSE(Exists(".cut.partial"));
  // It stays cancelled for later calls, and only for those it is given to.
  EXPECT_TRUE(absl::IsCancelled(client->GetServerStatus({.cancellation = &cancellation}).status()));
  EXPECT_TRUE(client->GetServerStatus().ok());

  Load(*client, "deep");
  Cancellation stream;
  const auto text = client->Generate(GenerateRequest("deep", 400),
                                     [&](const auto&) {
                                       stream.Cancel();
                                       return true;
                                     },
                                     {.cancellation = &stream});
  EXPECT_TRUE(absl::IsCancelled(text.status())) << text.status();
  int chunks = 0;
  const auto stopped =
      client->Generate(GenerateRequest("deep", 400), [&](const auto&) { return ++chunks < 3; });
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_EQ(chunks, 3);
  WaitIdle(*client);
}

TEST_F(ClientTest, ARepeatedStartIsOneOperation) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  auto request = QuantizeRequest("decoder", "once");
  request.set_request_id("the-same");
  const auto first = client->StartQuantize(request), second = client->StartQuantize(request);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(first->name(), second->name());
  ASSERT_TRUE(client->Watch(first->name(), {}).ok());
}

TEST_F(ClientTest, AStreamFinishesWhileTheServerDrains) {
  CopyModel("deep");
  Start();
  const auto client = Connect();
  Load(*client, "deep");
  int tokens = 0;
  absl::Status refused;
  const auto last = client->Generate(GenerateRequest("deep", 200), [&](const auto& chunk) {
    if (tokens == 0) {
      Terminate();
      // A second client is refused from the moment that the server drains.
      const auto other = Connect(absl::ZeroDuration());
      while (refused.ok())
        refused = other->GetServerStatus({.timeout = absl::Seconds(20)}).status();
    }
    tokens += chunk.token_ids_size();
    return true;
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(tokens, 200);
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_EQ(Wait(), 0);
}

TEST_F(ClientTest, TwoStreamsAtOnceGiveWhatEachGivesAlone) {
  CopyModel("decoder");
  Start();
  const auto client = Connect();
  Load(*client, "decoder");
  const auto run = [&](const std::string& prompt, std::vector<int32_t>* ids) {
    auto request = GenerateRequest("decoder", 60);
    request.set_text(prompt);
    const auto last = client->Generate(request, [&](const auto& chunk) {
      ids->insert(ids->end(), chunk.token_ids().begin(), chunk.token_ids().end());
      return true;
    });
    EXPECT_TRUE(last.ok()) << last.status();
  };
  std::vector<int32_t> alone[2], together[2];
  const std::string prompts[2] = {"hello there", "the river"};
  for (int i = 0; i < 2; ++i) run(prompts[i], &alone[i]);
  std::thread other([&] { run(prompts[1], &together[1]); });
  run(prompts[0], &together[0]);
  other.join();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(alone[i].size(), 60u);
    EXPECT_EQ(alone[i], together[i]) << prompts[i];
  }
}

TEST_F(ClientTest, EmbedsScoresAndTokenizes) {
  CopyModel("decoder");
  CopyModel("encoder");
  Start();
  const auto client = Connect();
  quant::v1::TokenizeRequest tokenize;
  tokenize.set_model(std::string("decoder"));
  tokenize.set_text(std::string("hello there"));
  const auto tokens = client->Tokenize(tokenize);  // not loaded yet
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  quant::v1::DetokenizeRequest detokenize;
  detokenize.set_model(std::string("decoder"));
  *detokenize.mutable_ids() = tokens->ids();
  detokenize.set_skip_special_tokens(true);
  const auto text = client->Detokenize(detokenize);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->text(), "hello there");

  Load(*client, "decoder");
  quant::v1::ScoreRequest score;
  score.set_model(std::string("decoder"));
  score.set_text(std::string("hello there"));
  const auto scores = client->Score(score);
  ASSERT_TRUE(scores.ok()) << scores.status();
  ASSERT_EQ(scores->tokens_size(), tokens->ids_size());
  double sum = 0;
  for (const auto& token : scores->tokens()) sum += token.logprob();
  EXPECT_NEAR(sum, scores->total_logprob(), 1e-4);

  Load(*client, "encoder");
  quant::v1::EmbedRequest embed;
  embed.set_model(std::string("encoder"));
  embed.add_texts("a cat sleeps");
  embed.add_texts("the dog runs");
  const auto both = client->Embed(embed);
  ASSERT_TRUE(both.ok()) << both.status();
  ASSERT_EQ(both->embeddings_size(), 2);
  embed.mutable_texts()->DeleteSubrange(0, 1);
  const auto one = client->Embed(embed);
  ASSERT_TRUE(one.ok()) << one.status();
  for (int i = 0; i < 32; ++i) {
    // int8 activations are scaled per token, so a batch changes nothing but the order of sums.
    EXPECT_NEAR(one->embeddings(0).values(i), both->embeddings(1).values(i), 1e-5);
  }
}

}  // namespace
}  // namespace quantd
