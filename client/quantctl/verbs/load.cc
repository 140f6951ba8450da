// quantctl load MODEL [--quantize METHOD ...] and quantctl unload MODEL
#include <cstdio>

#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

struct Flags {
  std::string model, device, compute = "fast";
  int context_length = 0, max_sequences = 0;
  bool quantize_activations = false;
  RecipeFlags recipe;
};

absl::Status Load(Context& context, const Flags& flags) {
  quant::v1::LoadModelRequest request;
  request.set_name(flags.model);
  request.set_device(flags.device);
  request.set_compute(flags.compute == "exact" ? quant::v1::COMPUTE_EXACT
                                               : quant::v1::COMPUTE_FAST);
  request.set_context_length(flags.context_length);
  request.set_max_sequences(flags.max_sequences);
  request.set_quantize_activations(flags.quantize_activations);
  if (!flags.recipe.method.empty() || !flags.recipe.config_file.empty()) {
    auto recipe = flags.recipe.Build(nullptr);
    if (!recipe.ok()) return recipe.status();
    *request.mutable_quantize() = *recipe;
  } else if (flags.recipe.bits != 0 || flags.recipe.group_size != 0 || !flags.recipe.set.empty()) {
    return WrongUsage("--bits, --group-size and --set need --quantize METHOD");
  }
  auto client = context.client();
  if (!client.ok()) return client.status();
  const auto model = (*client)->LoadModel(request, context.call());
  if (!model.ok()) return model.status();
  if (context.json()) {
    context.PrintJson(*model);
    return absl::OkStatus();
  }
  std::printf("%s is ready on %s: %s, quantization %s, weights %s, context %lld tokens\n",
              model->name().c_str(), model->device().c_str(), model->architecture().c_str(),
              model->quantization().c_str(), HumanBytes(model->memory().weight_bytes()).c_str(),
              static_cast<long long>(model->context_length()));
  return absl::OkStatus();
}

}  // namespace

void AddLoad(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("load", "load a model, quantizing it on the fly if asked to");
  verb->add_option("model", flags->model, "a model of the root")->required();
  verb->add_option("--device", flags->device,
                   "cpu, opencl, opencl:N or auto; default: the server's");
  verb->add_option("--compute", flags->compute, "fast, or exact float32")
      ->check(CLI::IsMember({"fast", "exact"}))
      ->capture_default_str();
  verb->add_option("--context-length", flags->context_length, "longest sequence in tokens");
  verb->add_option("--max-sequences", flags->max_sequences, "sequences that run at once");
  verb->add_flag("--quantize-activations", flags->quantize_activations,
                 "round the inputs of layers as the checkpoint's own library does");
  flags->recipe.AddTo(*verb, "--quantize");
  verb->callback(
      [&context, flags] { context.run = [flags](Context& ctx) { return Load(ctx, *flags); }; });
}

void AddUnload(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("unload", "unload a model when its requests are done");
  verb->add_option("model", *name, "a loaded model")->required();
  verb->callback([&context, name] {
    context.run = [name](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      const auto response = (*client)->UnloadModel(*name, ctx.call());
      if (!response.ok()) return response.status();
      if (ctx.json()) {
        ctx.PrintJson(*response);
      } else {
        std::printf("%s is unloaded, %s given back\n", name->c_str(),
                    HumanBytes(response->released_bytes()).c_str());
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
