// quantize_and_chat ADDRESS MODEL PROMPT: quantizes MODEL to NF4 on a running quantd, loads the
// result and streams an answer. Shows progress, deadlines, retries and cancellation (Ctrl-C).
#include <quantd/client.h>

#include <csignal>
#include <iostream>
#include <string>
#include <thread>

namespace {

// Turns Ctrl-C into a cancellation of whatever call is running.
void CancelOnInterrupt(quantd::Cancellation& cancellation) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any other thread starts
  std::thread([signals, &cancellation] {
    int signal = 0;
    sigwait(&signals, &signal);
    cancellation.Cancel();
  }).detach();
}

int Fail(const absl::Status& status) {
  std::cerr << status << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: quantize_and_chat ADDRESS MODEL PROMPT\n";
    return 2;
  }
  static quantd::Cancellation cancellation;
  CancelOnInterrupt(cancellation);

  // Calls are repeated for so long while the server is UNAVAILABLE, as during its restart.
  auto client = quantd::Client::Connect({.address = argv[1], .retry_for = absl::Seconds(30)});
  if (!client.ok()) return Fail(client.status());

  quant::v1::QuantizeCheckpointRequest quantize;
  quantize.set_model(argv[2]);
  quantize.set_output_name("example-nf4");
  quantize.set_overwrite(true);
  quantize.mutable_recipe()->set_method("bitsandbytes");
  (*quantize.mutable_recipe()->mutable_options())["bnb_4bit_quant_type"] = "nf4";
  const auto report =
      (*client)->Quantize(quantize,
                          [](const quant::v1::Progress& progress) {
                            std::cerr << "\r" << progress.tensors_done() << " of "
                                      << progress.tensors_total() << " tensors" << std::flush;
                          },
                          {.timeout = absl::Minutes(30), .cancellation = &cancellation});
  if (!report.ok()) return Fail(report.status());
  std::cerr << "\n" << report->bits_per_weight() << " bits per weight\n";

  quant::v1::LoadModelRequest load;
  load.set_name(report->output_name());
  const auto model =
      (*client)->LoadModel(load, {.timeout = absl::Minutes(5), .cancellation = &cancellation});
  if (!model.ok()) return Fail(model.status());

  quant::v1::GenerateRequest generate;
  generate.set_model(model->name());
  auto* message = generate.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(argv[3]);
  generate.set_max_tokens(200);
  const auto last =
      (*client)->Generate(generate,
                          [](const quant::v1::GenerateResponse& chunk) {
                            std::cout << chunk.text() << std::flush;
                            return true;  // false would stop the generation
                          },
                          {.timeout = absl::Minutes(2), .cancellation = &cancellation});
  if (!last.ok()) return Fail(last.status());
  std::cout << "\n";
  return 0;
}
