// quantctl generate MODEL [PROMPT]
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"

namespace quantd::ctl {
namespace {

struct Flags {
  std::string model, prompt, system;
  bool raw = false, ignore_eos = false, logprobs = false, quiet = false;
  int max_tokens = 0, top_k = 0;
  float temperature = 0, top_p = 1, min_p = 0, repetition_penalty = 1;
  uint64_t seed = 0;
  bool has_seed = false;
  std::vector<std::string> stop;
};

quant::v1::GenerateRequest BuildRequest(const Flags& flags) {
  quant::v1::GenerateRequest request;
  request.set_model(flags.model);
  if (flags.raw) {
    request.set_text(flags.prompt);
  } else {
    quant::v1::Chat& chat = *request.mutable_chat();
    if (!flags.system.empty()) {
      auto* message = chat.add_messages();
      message->set_role("system");
      message->set_content(flags.system);
    }
    auto* message = chat.add_messages();
    message->set_role("user");
    message->set_content(flags.prompt);
  }
  request.set_max_tokens(flags.max_tokens);
  request.set_ignore_eos(flags.ignore_eos);
  request.set_logprobs(flags.logprobs);
  for (const std::string& stop : flags.stop) request.add_stop(stop);
  quant::v1::SamplingOptions& sampling = *request.mutable_sampling();
  sampling.set_temperature(flags.temperature);
  sampling.set_top_k(flags.top_k);
  sampling.set_top_p(flags.top_p);
  sampling.set_min_p(flags.min_p);
  sampling.set_repetition_penalty(flags.repetition_penalty);
  if (flags.has_seed) sampling.set_seed(flags.seed);
  return request;
}

void PrintUsage(const quant::v1::GenerateUsage& usage) {
  const auto rate = [](int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0.0; };
  std::fprintf(stderr, "\n[%d prompt tokens, %.0f tokens/s; %d generated, %.1f tokens/s]\n",
               usage.prompt_tokens(), rate(usage.prompt_tokens(), usage.prefill_seconds()),
               usage.generated_tokens(), rate(usage.generated_tokens(), usage.decode_seconds()));
}

absl::Status Run(Context& context, Flags flags) {
  if (flags.prompt.empty()) {
    if (isatty(STDIN_FILENO)) {
      return WrongUsage("give a prompt, as an argument or on standard input");
    }
    flags.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  auto client = context.client();
  if (!client.ok()) return client.status();
  if (absl::Status status = context.EnsureLoaded(flags.model); !status.ok()) return status;
  quant::v1::GenerateResponse whole;  // for --output json
  const auto last = (*client)->Generate(
      BuildRequest(flags),
      [&](const quant::v1::GenerateResponse& chunk) {
        if (context.json()) {
          whole.mutable_token_ids()->MergeFrom(chunk.token_ids());
          whole.mutable_logprobs()->MergeFrom(chunk.logprobs());
          whole.mutable_text()->append(chunk.text());
          whole.mutable_raw_text()->append(chunk.raw_text());
        } else {
          const std::string& bytes = chunk.text().empty() ? chunk.raw_text() : chunk.text();
          std::fwrite(bytes.data(), 1, bytes.size(), stdout);
          std::fflush(stdout);
        }
        return true;
      },
      context.call());
  if (!last.ok()) return last.status();
  if (context.json()) {
    whole.set_finish_reason(last->finish_reason());
    *whole.mutable_usage() = last->usage();
    context.PrintJson(whole);
    return absl::OkStatus();
  }
  std::fputc('\n', stdout);
  if (!flags.quiet) PrintUsage(last->usage());
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("generate", "stream an answer to a prompt");
  verb->add_option("model", flags->model, "a loaded model")->required();
  verb->add_option("prompt", flags->prompt, "the prompt; default: standard input");
  verb->add_flag("--raw", flags->raw, "continue the text as it is, without the chat template");
  verb->add_option("--system", flags->system, "system message of the chat");
  verb->add_option("--max-tokens", flags->max_tokens, "default 256");
  verb->add_option("--temperature", flags->temperature, "0: greedy")->capture_default_str();
  verb->add_option("--top-k", flags->top_k, "0: all");
  verb->add_option("--top-p", flags->top_p, "in (0, 1]")->capture_default_str();
  verb->add_option("--min-p", flags->min_p, "in [0, 1]")->capture_default_str();
  verb->add_option("--repetition-penalty", flags->repetition_penalty, "1: none")
      ->capture_default_str();
  verb->add_option("--seed", flags->seed, "same seed, same text")
      ->each([flags](const std::string&) { flags->has_seed = true; });
  verb->add_option("--stop", flags->stop, "end before this text; repeatable")
      ->allow_extra_args(false);
  verb->add_flag("--logprobs", flags->logprobs,
                 "log-probability of each token (with --output json)");
  verb->add_flag("--ignore-eos", flags->ignore_eos, "go on past the end-of-sequence token");
  verb->add_flag("-q,--quiet", flags->quiet, "no statistics");
  verb->callback(
      [&context, flags] { context.run = [flags](Context& ctx) { return Run(ctx, *flags); }; });
}

}  // namespace quantd::ctl
