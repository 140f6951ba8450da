#include "service/quantize_request.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/parameters.h"
#include "quantizers/checkpoint_sink.h"
#include "service/calibration.h"
#include "service/messages.h"
#include "service/status.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

// What both requests have in common.
template <class Request>
absl::StatusOr<OutputOptions> OutputFrom(const ServiceContext& services, const Request& request,
                                         bool gguf) {
  RETURN_IF_ERROR(CheckModelName(request.model()));
  OutputOptions output;
  output.name = request.output_name();
  if (gguf && !absl::EndsWith(output.name, ".gguf")) {
    output.name += ".gguf";
  }
  RETURN_IF_ERROR(CheckModelName(output.name));
  if (!gguf && absl::EndsWith(output.name, ".gguf")) {
    return FieldError("output_name", "the result is a folder, whose name must not end in .gguf");
  }
  if (request.max_shard_bytes() < 0) {
    return FieldError("max_shard_bytes", "must not be negative");
  }
  if (request.request_id().size() > 128) {
    return FieldError("request_id", "has more than 128 characters");
  }
  if (request.max_shard_bytes() > 0) {
    output.max_shard_bytes = static_cast<uint64_t>(request.max_shard_bytes());
  }
  output.overwrite = request.overwrite();
  output.resume = request.resume();
  if (!output.overwrite && services.root->Find(output.name).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("model \"", output.name,
                                                 "\" exists; choose another output_name or set "
                                                 "overwrite"));
  }
  return output;
}

// Where a model is loaded now; "" when it is not.
std::string DeviceOfLoaded(const ServiceContext& services, const std::string& name) {
  const ModelEntry entry = services.repository->Get(name);
  return entry.model != nullptr ? entry.model->device() : "";
}

}  // namespace

absl::StatusOr<DType> ParseFloatDType(absl::string_view field, absl::string_view name) {
  if (name == "bf16") {
    return DType::kBF16;
  }
  if (name == "f16") {
    return DType::kF16;
  }
  if (name == "f32") {
    return DType::kF32;
  }
  return FieldError(field, absl::StrCat("\"", Shown(name), "\" must be bf16, f16 or f32"));
}

absl::StatusOr<OperationStore::Request> PrepareQuantize(
    const ServiceContext& services, const pb::QuantizeCheckpointRequest& request) {
  if (!request.has_recipe()) {
    return FieldError("recipe", "is required");
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const Recipe> recipe, RecipeFromMessage(request.recipe()));
  ASSIGN_OR_RETURN(recipe, ReadImportance(*services.root, std::move(recipe)));
  const bool gguf = recipe->gguf_policy() != nullptr;
  ASSIGN_OR_RETURN(OutputOptions output, OutputFrom(services, request, gguf));
  switch (request.nonfinite()) {
    case pb::NON_FINITE_UNSPECIFIED:
    case pb::NON_FINITE_ERROR:
      break;
    case pb::NON_FINITE_ZERO:
      output.zero_nonfinite = true;
      break;
    default:
      return FieldError("nonfinite", absl::StrCat("unknown value ", request.nonfinite()));
  }
  if (request.has_calibration() && request.calibration().empty()) {
    return FieldError("calibration", "is empty: give a text, or leave it out");
  }
  // A dry plan from the headers finds what the method cannot do with this model.
  ASSIGN_OR_RETURN(const auto source, OpenModelSource(services.root, request.model()));
  RETURN_IF_ERROR(CheckCheckpoint(*source));
  const CalibrationJob calibration = {.root = services.root,
                                      .model = request.model(),
                                      .text = request.calibration(),
                                      .recipe = recipe,
                                      .memory_limit = services.memory_limit,
                                      .nsamples = request.nsamples(),
                                      .seqlen = request.seqlen(),
                                      .device = request.device(),
                                      .loaded_on = DeviceOfLoaded(services, request.model()),
                                      .overwrite = output.overwrite,
                                      .zero_nonfinite = output.zero_nonfinite};
  ASSIGN_OR_RETURN(recipe, PlanCalibration(calibration, *source));
  RETURN_IF_ERROR(gguf ? PlanGgufJob(*source, *recipe, request.model()).status()
                       : PlanFolderJob(*source, recipe.get(), std::nullopt).status());
  ASSIGN_OR_RETURN(const std::optional<BlockCalibration> blocks,
                   PlanBlockCalibration(calibration, *source));
  OperationStore::Request out;
  out.subject = {"quantize", request.model(), output.name, DescribeRecipe(request.recipe())};
  out.request_id = request.request_id();
  out.fingerprint = Canonical(request);
  out.work = [calibration, blocks, output](JobControl& control) -> absl::StatusOr<QuantizeReport> {
    ASSIGN_OR_RETURN(const auto ready, RunCalibration(calibration, control));
    CalibrationData data;
    if (blocks) {
      ASSIGN_OR_RETURN(data, StartBlockCalibration(calibration, *blocks, control));
    }
    return QuantizeCheckpoint(calibration.root, calibration.model, *ready, output, control,
                              blocks ? &data : nullptr);
  };
  return out;
}

absl::StatusOr<OperationStore::Request> PrepareDequantize(
    const ServiceContext& services, const pb::DequantizeCheckpointRequest& request) {
  ASSIGN_OR_RETURN(const OutputOptions output, OutputFrom(services, request, /*gguf=*/false));
  ASSIGN_OR_RETURN(const DType dtype,
                   ParseFloatDType("dtype", request.dtype().empty() ? "bf16" : request.dtype()));
  ASSIGN_OR_RETURN(const auto source, OpenModelSource(services.root, request.model()));
  RETURN_IF_ERROR(PlanFolderJob(*source, nullptr, dtype).status());
  OperationStore::Request out;
  out.subject = {"dequantize", request.model(), output.name,
                 absl::StrCat("dequantize to ", InfoOf(dtype).torch_name)};
  out.request_id = request.request_id();
  out.fingerprint = Canonical(request);
  out.work = [root = services.root, model = request.model(), dtype, output](JobControl& control) {
    return DequantizeCheckpoint(root, model, dtype, output, control);
  };
  return out;
}

}  // namespace quantd
