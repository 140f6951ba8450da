// quantctl dequantize MODEL --output-name NAME [--dtype bf16]
#include "client/quantctl/context.h"
#include "client/quantctl/quantize_report.h"

namespace quantd::ctl {

void AddDequantize(CLI::App& app, Context& context) {
  struct Flags {
    std::string model, output_name, dtype = "bf16";
    bool overwrite = false, resume = false, detach = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("dequantize", "write a plain checkpoint that anything loads");
  verb->add_option("model", flags->model, "a quantized model of the root")->required();
  verb->add_option("--output-name", flags->output_name, "name of the new model")->required();
  verb->add_option("--dtype", flags->dtype, "of the new weights")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  verb->add_flag("--overwrite", flags->overwrite, "replace an existing output");
  verb->add_flag("--resume", flags->resume, "continue an interrupted job");
  verb->add_flag("--detach", flags->detach, "return at once; see `quantctl operations`");
  verb->callback([&context, flags] {
    context.run = [flags](Context& ctx) -> absl::Status {
      quant::v1::DequantizeCheckpointRequest request;
      request.set_model(flags->model);
      request.set_output_name(flags->output_name);
      request.set_dtype(flags->dtype);
      request.set_overwrite(flags->overwrite);
      request.set_resume(flags->resume);
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      if (flags->detach) {
        return PrintStarted(ctx, (*client)->StartDequantize(request, ctx.call()));
      }
      JobProgress progress("dequantizing");
      return PrintReport(ctx, (*client)->Dequantize(request, progress.callback(), ctx.call()),
                         progress);
    };
  });
}

}  // namespace quantd::ctl
