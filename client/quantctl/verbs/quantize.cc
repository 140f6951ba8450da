// quantctl quantize MODEL --method M ...
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/quantize_report.h"

namespace quantd::ctl {
namespace {

struct Flags {
  std::string model, output_name, calibration_file, device;
  int64_t nsamples = 0, seqlen = 0;
  RecipeFlags recipe;
  bool overwrite = false, resume = false, detach = false;
  int64_t max_shard_bytes = 0;
};

absl::StatusOr<quant::v1::NonFinite> NonFiniteOf(const std::map<std::string, std::string>& extra) {
  const auto found = extra.find("nonfinite");
  if (found == extra.end()) return quant::v1::NON_FINITE_UNSPECIFIED;
  if (found->second == "error") return quant::v1::NON_FINITE_ERROR;
  if (found->second == "zero") return quant::v1::NON_FINITE_ZERO;
  return WrongUsage(
      absl::StrCat("--set nonfinite=", found->second, ": allowed are error and zero"));
}

std::string DefaultName(const Flags& flags) {
  std::string base = flags.model;
  if (const size_t suffix = base.rfind(".gguf"); suffix != std::string::npos) base.resize(suffix);
  return absl::StrCat(base, "-", flags.recipe.method.empty() ? "quantized" : flags.recipe.method);
}

absl::Status Run(Context& context, const Flags& flags) {
  if (flags.recipe.method.empty() == flags.recipe.config_file.empty()) {
    return WrongUsage("give either --method or --quantization-config");
  }
  std::map<std::string, std::string> extra;
  auto recipe = flags.recipe.Build(&extra);
  if (!recipe.ok()) return recipe.status();
  const auto nonfinite = NonFiniteOf(extra);
  if (!nonfinite.ok()) return nonfinite.status();
  quant::v1::QuantizeCheckpointRequest request;
  request.set_model(flags.model);
  *request.mutable_recipe() = *recipe;
  request.set_output_name(flags.output_name.empty() ? DefaultName(flags) : flags.output_name);
  request.set_overwrite(flags.overwrite);
  request.set_resume(flags.resume);
  request.set_max_shard_bytes(flags.max_shard_bytes);
  request.set_nonfinite(*nonfinite);
  request.set_nsamples(flags.nsamples);
  request.set_seqlen(flags.seqlen);
  request.set_device(flags.device);
  if (!flags.calibration_file.empty()) {
    std::ifstream file(flags.calibration_file, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", flags.calibration_file));
    request.set_calibration(std::string(std::istreambuf_iterator<char>(file), {}));
  }

  auto client = context.client();
  if (!client.ok()) return client.status();
  if (flags.detach) {
    return PrintStarted(context, (*client)->StartQuantize(request, context.call()));
  }
  JobProgress progress("quantizing");
  return PrintReport(context, (*client)->Quantize(request, progress.callback(), context.call()),
                     progress);
}

}  // namespace

void AddQuantize(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("quantize", "quantize a model of the root into a new one");
  verb->add_option("model", flags->model, "folder or .gguf file in the model root")->required();
  flags->recipe.AddTo(*verb, "--method");
  verb->add_option(
      "--calibration", flags->calibration_file,
      "UTF-8 text, plain or JSON lines with a \"text\" each, that the model reads to measure "
      "its activations; without it, calibrated methods let the model write one");
  verb->add_option("--nsamples", flags->nsamples, "sequences taken from the calibration text");
  verb->add_option("--seqlen", flags->seqlen, "tokens of each");
  verb->add_option("--device", flags->device,
                   "cpu, opencl, opencl:N or auto, to calibrate on: the same bytes; default: where "
                   "the model is loaded, else cpu");
  verb->add_option("--output-name", flags->output_name, "name of the new model");
  verb->add_flag("--overwrite", flags->overwrite, "replace an existing output");
  verb->add_flag("--resume", flags->resume, "continue an interrupted job");
  verb->add_flag("--detach", flags->detach, "return at once; see `quantctl operations`");
  verb->add_option("--max-shard-bytes", flags->max_shard_bytes, "largest safetensors shard");
  verb->callback(
      [&context, flags] { context.run = [flags](Context& ctx) { return Run(ctx, *flags); }; });
}

}  // namespace quantd::ctl
