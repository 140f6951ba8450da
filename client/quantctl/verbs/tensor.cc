// quantctl tensor quantize IN.safetensors --method M ... --output OUT.safetensors
// quantctl tensor dequantize IN.safetensors --output OUT.safetensors
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/quantctl/context.h"
#include "client/quantctl/safetensors_file.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

constexpr char kConfigKey[] = "quantization_config";  // in the metadata of quantized files

struct Flags {
  std::string in, out, dtype, name;
  RecipeFlags recipe;
};

absl::Status PrintTensors(Context& context, const SafetensorsFile& file, const std::string& path) {
  std::vector<std::vector<std::string>> rows = {{"TENSOR", "DTYPE", "SHAPE", "BYTES"}};
  quant::v1::InspectModelResponse listed;
  for (const TensorData& tensor : file.tensors) {
    std::string shape;
    for (const int64_t dim : tensor.spec.shape())
      absl::StrAppend(&shape, shape.empty() ? "" : "x", dim);
    rows.push_back(
        {tensor.spec.name(), tensor.spec.dtype(), shape, absl::StrCat(tensor.bytes.size())});
    auto* entry = listed.add_tensors();
    entry->set_name(tensor.spec.name());
    *entry->mutable_shape() = tensor.spec.shape();
    entry->set_stored_as(tensor.spec.dtype());
    entry->set_bytes(static_cast<int64_t>(tensor.bytes.size()));
  }
  if (context.json()) {
    context.PrintJson(listed);
  } else {
    std::printf("%s\n%s", path.c_str(), Table(rows).c_str());
  }
  return absl::OkStatus();
}

absl::Status Quantize(Context& context, const Flags& flags) {
  if (flags.recipe.method.empty() == flags.recipe.config_file.empty()) {
    return WrongUsage("give either --method or --quantization-config");
  }
  auto recipe = flags.recipe.Build(nullptr);
  if (!recipe.ok()) return recipe.status();
  auto input = ReadSafetensors(flags.in);
  if (!input.ok()) return input.status();
  const TensorData* weight = nullptr;
  const TensorData* calibration = nullptr;
  for (const TensorData& tensor : input->tensors) {
    const std::string& name = tensor.spec.name();
    if (name == "weight") weight = &tensor;
    if (name == "calibration" || (name == "X" && calibration == nullptr)) calibration = &tensor;
  }
  if (weight == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(flags.in, " has no tensor named weight"));
  }
  auto client = context.client();
  if (!client.ok()) return client.status();
  auto result =
      (*client)->QuantizeTensor(*recipe, *weight, calibration, flags.name, context.call());
  if (!result.ok()) return result.status();
  for (const std::string& warning : result->warnings) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  const SafetensorsFile output{std::move(result->tensors),
                               {{kConfigKey, result->quantization_config}}};
  if (absl::Status status = WriteSafetensors(flags.out, output); !status.ok()) return status;
  return PrintTensors(context, output, flags.out);
}

absl::Status Dequantize(Context& context, const Flags& flags) {
  auto input = ReadSafetensors(flags.in);
  if (!input.ok()) return input.status();
  QuantizedTensorData quantized;
  if (!flags.recipe.config_file.empty()) {
    auto recipe = flags.recipe.Build(nullptr);
    if (!recipe.ok()) return recipe.status();
    quantized.quantization_config = recipe->quantization_config();
  } else {
    quantized.quantization_config = input->metadata[kConfigKey];
  }
  if (quantized.quantization_config.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.in, " does not say how it was quantized: give --quantization-config"));
  }
  quantized.tensors = std::move(input->tensors);
  auto client = context.client();
  if (!client.ok()) return client.status();
  auto weight = (*client)->DequantizeTensor(quantized, flags.dtype, context.call());
  if (!weight.ok()) return weight.status();
  const SafetensorsFile output{{*std::move(weight)}, {}};
  if (absl::Status status = WriteSafetensors(flags.out, output); !status.ok()) return status;
  return PrintTensors(context, output, flags.out);
}

CLI::App* AddDirection(CLI::App& verb, const char* name, const char* what, Flags& flags) {
  CLI::App* direction = verb.add_subcommand(name, what);
  direction->add_option("in", flags.in, "safetensors file")->required();
  direction->add_option("--output", flags.out, "safetensors file to write")->required();
  return direction;
}

}  // namespace

void AddTensor(CLI::App& app, Context& context) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("tensor", "quantize or dequantize one matrix");
  verb->require_subcommand(1);
  CLI::App* quantize = AddDirection(*verb, "quantize",
                                    "the tensor `weight` of a file, fitted to its inputs "
                                    "`calibration` (or X) where the method is",
                                    *flags);
  flags->recipe.AddTo(*quantize, "--method");
  quantize->add_option("--name", flags->name,
                       "name of the weight in its model, blk.3.ffn_down.weight: whose entry of the "
                       "importance matrix is taken (--set imatrix=FILE, in the model root)");
  quantize->callback(
      [&context, flags] { context.run = [flags](Context& ctx) { return Quantize(ctx, *flags); }; });
  CLI::App* dequantize =
      AddDirection(*verb, "dequantize", "the tensors of one Linear back into `weight`", *flags);
  dequantize->add_option("--quantization-config", flags->recipe.config_file,
                         "upstream quantization_config as a JSON file; default: the file's own");
  dequantize->add_option("--dtype", flags->dtype, "bf16, f16 or f32; default: upstream's");
  dequantize->callback([&context, flags] {
    context.run = [flags](Context& ctx) { return Dequantize(ctx, *flags); };
  });
}

}  // namespace quantd::ctl
