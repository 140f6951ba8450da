// quantctl inspect MODEL
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/quantctl/context.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

void PrintText(const quant::v1::InspectModelResponse& response) {
  const quant::v1::Model& model = response.model();
  std::printf("%s: %s, quantization %s, %s, %s parameters, %.2f bits per weight\n",
              model.name().c_str(), model.architecture().c_str(), model.quantization().c_str(),
              HumanBytes(model.size_bytes()).c_str(), absl::StrCat(model.parameter_count()).c_str(),
              model.bits_per_weight());
  for (const auto& [key, value] : response.metadata()) {
    std::printf("%s = %s\n", key.c_str(), value.c_str());
  }
  if (!response.quantization_config().empty()) {
    std::printf("quantization_config = %s\n", response.quantization_config().c_str());
  }
  std::vector<std::vector<std::string>> rows = {{"TENSOR", "SHAPE", "STORED AS", "BYTES"}};
  for (const auto& tensor : response.tensors()) {
    std::string shape;
    for (const int64_t dim : tensor.shape()) absl::StrAppend(&shape, shape.empty() ? "" : "x", dim);
    rows.push_back({tensor.name(), shape, tensor.stored_as(), absl::StrCat(tensor.bytes())});
  }
  std::fputs(Table(rows).c_str(), stdout);
}

}  // namespace

void AddInspect(CLI::App& app, Context& context) {
  auto name = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("inspect", "tensors, layouts and provenance of a checkpoint");
  verb->add_option("model", *name, "a model of the root, or a .safetensors or .gguf file in it")
      ->required();
  verb->callback([&context, name] {
    context.run = [name](Context& ctx) -> absl::Status {
      auto client = ctx.client();
      if (!client.ok()) return client.status();
      const auto response = (*client)->InspectModel(*name, ctx.call());
      if (!response.ok()) return response.status();
      if (ctx.json()) {
        ctx.PrintJson(*response);
      } else {
        PrintText(*response);
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace quantd::ctl
