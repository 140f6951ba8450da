// quantctl evaluate MODEL --text FILE [--reference MODEL]
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/progress_bar.h"

namespace quantd::ctl {
namespace {

struct Flags {
  std::string model, reference, text_file;
  int context_length = 0;
  int64_t max_tokens = 0;
};

void PrintText(const quant::v1::EvaluateResult& result) {
  if (result.perplexity() > 0) {
    std::printf("perplexity %.4f +/- %.4f over %lld tokens\n", result.perplexity(),
                result.perplexity_error(), static_cast<long long>(result.scored_tokens()));
  }
  if (result.has_reference_perplexity()) {
    std::printf("reference perplexity %.4f\n", result.reference_perplexity());
  }
  if (result.has_mean_kl_divergence()) {
    std::printf("mean KL divergence %.6f, top-1 agreement %.2f %%\n", result.mean_kl_divergence(),
                100 * result.top1_agreement());
  }
  if (result.has_mean_cosine()) {
    std::printf("mean cosine to the reference %.6f\n", result.mean_cosine());
  }
}

absl::Status Run(Context& context, const Flags& flags) {
  std::ifstream file(flags.text_file, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", flags.text_file));
  quant::v1::EvaluateRequest request;
  request.set_model(flags.model);
  request.set_reference(flags.reference);
  request.set_text(std::string(std::istreambuf_iterator<char>(file), {}));
  request.set_context_length(flags.context_length);
  request.set_max_tokens(flags.max_tokens);
  auto client = context.client();
  if (!client.ok()) return client.status();
  for (const std::string& model : {flags.model, flags.reference}) {
    if (model.empty()) continue;
    if (absl::Status status = context.EnsureLoaded(model); !status.ok()) return status;
  }
  auto bar = std::make_unique<ProgressBar>("evaluating");
  const auto result = (*client)->Evaluate(
      request,
      [&bar](const quant::v1::EvaluateResponse& progress) {
        if (progress.tokens_total() > 0) {
          bar->Update(progress.tokens_done(), progress.tokens_total(), "", absl::Seconds(-1), "");
        }
      },
      context.call());
  bar.reset();
  if (!result.ok()) return result.status();
  if (context.json()) {
    context.PrintJson(*result);
  } else {
    PrintText(*result);
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvaluate(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "evaluate", "perplexity; against a reference also KL divergence and top-1 agreement");
  verb->add_option("model", flags->model, "a loaded model")->required();
  verb->add_option("--text", flags->text_file, "UTF-8 text file")->required();
  verb->add_option("--reference", flags->reference, "another loaded model, same vocabulary");
  verb->add_option("--context-length", flags->context_length, "window in tokens; default 512");
  verb->add_option("--max-tokens", flags->max_tokens, "stop after this many");
  verb->callback(
      [&context, flags] { context.run = [flags](Context& ctx) { return Run(ctx, *flags); }; });
}

}  // namespace quantd::ctl
