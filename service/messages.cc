#include "service/messages.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "service/status.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

pb::MethodOption::Type TypeOf(OptionSpec::Type type) {
  switch (type) {
    case OptionSpec::Type::kInt:
      return pb::MethodOption::INTEGER;
    case OptionSpec::Type::kBool:
      return pb::MethodOption::BOOLEAN;
    case OptionSpec::Type::kFloat:
      return pb::MethodOption::FLOAT;
    case OptionSpec::Type::kString:
      return pb::MethodOption::STRING;
    case OptionSpec::Type::kStringList:
      return pb::MethodOption::STRING_LIST;
  }
  return pb::MethodOption::TYPE_UNSPECIFIED;
}

// Proto strings must be UTF-8; names and texts that come from files need not be.
std::string SafeText(absl::string_view text) { return Shown(text); }

}  // namespace

google::protobuf::Duration ToMessage(absl::Duration duration) {
  google::protobuf::Duration out;
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(duration);
  out.set_seconds(nanoseconds / 1000000000);
  out.set_nanos(static_cast<int32_t>(nanoseconds % 1000000000));
  return out;
}

google::protobuf::Timestamp ToMessage(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t nanoseconds = absl::ToUnixNanos(time);
  out.set_seconds(nanoseconds / 1000000000);
  out.set_nanos(static_cast<int32_t>(nanoseconds % 1000000000));
  return out;
}

pb::Method ToMessage(const Method& method) {
  pb::Method out;
  out.set_name(method.name);
  out.set_summary(method.summary);
  out.set_bits(method.bits);
  out.set_needs_calibration(method.needs_calibration);
  out.set_takes_calibration(method.takes_calibration);
  out.set_on_the_fly(method.on_the_fly);
  out.set_serializable(method.serializable);
  out.set_lora(method.lora);
  out.set_cpu(method.cpu);
  out.set_opencl(method.opencl);
  out.set_upstream_loader(method.upstream);
  out.set_bits_option(method.bits_option);
  out.set_group_size_option(method.group_size_option);
  for (const OptionSpec& spec : method.options) {
    pb::MethodOption& option = *out.add_options();
    option.set_name(spec.name);
    option.set_type(TypeOf(spec.type));
    option.set_default_value(spec.default_value);
    option.set_description(spec.description);
    for (const std::string& value : spec.allowed) {
      option.add_allowed_values(value);
    }
  }
  return out;
}

pb::QuantizeReport ToMessage(const QuantizeReport& report) {
  pb::QuantizeReport out;
  out.set_output_name(report.output_name);
  out.set_source_bytes(static_cast<int64_t>(report.source_bytes));
  out.set_output_bytes(static_cast<int64_t>(report.output_bytes));
  out.set_bits_per_weight(report.bits_per_weight);
  *out.mutable_elapsed() = ToMessage(absl::Seconds(report.seconds));
  out.set_peak_memory_bytes(static_cast<int64_t>(report.peak_memory_bytes));
  out.set_mean_relative_error(report.mean_relative_error);
  out.set_calibration_device(report.calibration_device);
  for (const LayerReport& layer : report.layers) {
    pb::LayerReport& row = *out.add_layers();
    row.set_name(SafeText(layer.name));
    row.set_scheme(layer.scheme);
    row.add_shape(layer.rows);
    row.add_shape(layer.cols);
    row.set_bits_per_weight(layer.bits_per_weight);
    row.set_relative_error(layer.relative_error);
    if (layer.output_error >= 0) row.set_output_error(layer.output_error);
    if (layer.rounding_error >= 0) row.set_rounding_output_error(layer.rounding_error);
  }
  for (const std::string& warning : report.warnings) {
    out.add_warnings(SafeText(warning));
  }
  return out;
}

pb::OperationMetadata MetadataOf(const OperationSnapshot& operation) {
  pb::OperationMetadata out;
  out.set_state(static_cast<pb::OperationMetadata::State>(
      static_cast<int>(operation.state) + static_cast<int>(pb::OperationMetadata::QUEUED)));
  out.set_verb(operation.subject.verb);
  out.set_model(operation.subject.model);
  out.set_output_name(operation.subject.output_name);
  out.set_description(operation.subject.description);
  *out.mutable_create_time() = ToMessage(operation.create_time);
  if (operation.done()) {
    *out.mutable_end_time() = ToMessage(operation.end_time);
  }
  pb::Progress& progress = *out.mutable_progress();
  progress.set_tensors_done(operation.progress.tensors_done);
  progress.set_tensors_total(operation.progress.tensors_total);
  progress.set_bytes_done(static_cast<int64_t>(operation.progress.bytes_done));
  progress.set_bytes_total(static_cast<int64_t>(operation.progress.bytes_total));
  progress.set_current_tensor(SafeText(operation.progress.tensor));
  if (operation.progress.relative_error >= 0) {
    progress.set_current_relative_error(operation.progress.relative_error);
  }
  progress.set_block(operation.progress.block);
  progress.set_blocks(operation.progress.blocks);
  if (operation.progress.output_error >= 0) {
    progress.set_current_output_error(operation.progress.output_error);
  }
  if (operation.progress.rounding_error >= 0) {
    progress.set_current_rounding_output_error(operation.progress.rounding_error);
  }
  if (operation.eta.has_value()) {
    *progress.mutable_eta() = ToMessage(*operation.eta);
  }
  *progress.mutable_elapsed() = ToMessage(operation.elapsed);
  return out;
}

google::longrunning::Operation ToMessage(const OperationSnapshot& operation) {
  google::longrunning::Operation out;
  out.set_name(operation.name);
  out.mutable_metadata()->PackFrom(MetadataOf(operation));
  out.set_done(operation.done());
  if (operation.state == OperationState::kSucceeded) {
    out.mutable_response()->PackFrom(operation.report ? ToMessage(*operation.report)
                                                      : pb::QuantizeReport());
  } else if (operation.done()) {
    *out.mutable_error() = ToRpcStatus(operation.status);
  }
  return out;
}

void FillFromSource(const ModelSource& source, pb::Model& out) {
  out.set_architecture(SafeText(source.config().architecture));
  out.set_quantization(SafeText(source.quantization()));
  int64_t count = 0;
  for (const SourceParameter& parameter : source.parameters()) {
    count += NumElements(parameter.shape);
  }
  out.set_parameter_count(count);
  out.set_size_bytes(static_cast<int64_t>(source.stored_bytes()));
  out.set_bits_per_weight(count > 0 ? 8.0 * static_cast<double>(source.stored_bytes()) /
                                          static_cast<double>(count)
                                    : 0);
}

namespace {

void FillFromLoaded(const Model& model, int active, pb::Model& out) {
  out.set_device(model.device());
  out.set_compute(model.compute() == Compute::kExact ? pb::COMPUTE_EXACT : pb::COMPUTE_FAST);
  out.set_quantize_activations(model.quantizes_activations());
  const ModelMemory memory = model.memory();
  pb::MemoryFootprint& footprint = *out.mutable_memory();
  footprint.set_weight_bytes(static_cast<int64_t>(memory.weight_bytes));
  footprint.set_kv_bytes_per_token(static_cast<int64_t>(memory.kv_bytes_per_token));
  footprint.set_kv_bytes(static_cast<int64_t>(memory.kv_bytes));
  footprint.set_workspace_bytes(static_cast<int64_t>(memory.workspace_bytes));
  for (const auto& [layout, bytes] : memory.weight_bytes_by_layout) {
    (*footprint.mutable_weight_bytes_by_layout())[layout] = static_cast<int64_t>(bytes);
  }
  out.set_context_length(model.context_length());
  out.set_vocab_size(model.config().vocab_size);
  out.set_has_tokenizer(model.tokenizer() != nullptr);
  out.set_has_chat_template(model.has_chat_template());
  out.set_active_requests(active);
  out.set_embedding_length(model.is_encoder() ? model.config().hidden_size : 0);
  out.set_quantization(SafeText(model.quantization()));
}

}  // namespace

absl::StatusOr<pb::Model> DescribeModel(const ServiceContext& services, const std::string& name) {
  RETURN_IF_ERROR(services.root->Find(name).status());
  pb::Model out;
  out.set_name(name);
  const ModelEntry entry = services.repository->Get(name);
  out.set_state(static_cast<pb::Model::State>(static_cast<int>(entry.state) +
                                              static_cast<int>(pb::Model::UNLOADED)));
  out.set_state_reason(entry.reason);
  const auto source = OpenModelSource(services.root, name);
  if (source.ok()) {
    FillFromSource(**source, out);
  } else if (entry.reason.empty()) {
    out.set_state_reason(std::string(ToGrpcStatus(source.status()).error_message()));
  }
  if (entry.model != nullptr && entry.state == ModelState::kReady) {
    FillFromLoaded(*entry.model, entry.active, out);
  }
  return out;
}

absl::StatusOr<std::shared_ptr<const Recipe>> RecipeFromMessage(const pb::Recipe& message) {
  const bool has_config = !message.quantization_config().empty();
  if (has_config == !message.method().empty()) {
    return FieldError("recipe", "exactly one of method and quantization_config must be set");
  }
  if (has_config) {
    if (!message.options().empty() || message.bits() != 0 || message.group_size() != 0) {
      return FieldError("recipe",
                        "a quantization_config says everything: leave options, bits and "
                        "group_size out");
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Recipe> recipe,
                     RecipeFromConfig(message.quantization_config()));
    return std::shared_ptr<const Recipe>(std::move(recipe));
  }
  ASSIGN_OR_RETURN(const Method* method, FindMethod(message.method()));
  std::map<std::string, std::string> options(message.options().begin(), message.options().end());
  const auto shorthand = [&](absl::string_view field, const std::string& option,
                             int32_t value) -> absl::Status {
    if (value == 0) {
      return absl::OkStatus();
    }
    if (option.empty()) {
      return FieldError(absl::StrCat("recipe.", field),
                        absl::StrCat("method ", method->name, " has no such option"));
    }
    const auto [it, inserted] = options.emplace(option, absl::StrCat(value));
    if (!inserted && it->second != absl::StrCat(value)) {
      return FieldError(absl::StrCat("recipe.", field),
                        absl::StrCat(value, " contradicts options.", option, " ", it->second));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(shorthand("bits", method->bits_option, message.bits()));
  RETURN_IF_ERROR(shorthand("group_size", method->group_size_option, message.group_size()));
  ASSIGN_OR_RETURN(std::unique_ptr<Recipe> recipe, MakeRecipe(method->name, options));
  return std::shared_ptr<const Recipe>(std::move(recipe));
}

std::string DescribeRecipe(const pb::Recipe& message) {
  if (!message.quantization_config().empty()) {
    return absl::StrCat("quantization_config ", Shown(message.quantization_config()));
  }
  std::string out = message.method();
  const std::map<std::string, std::string> options(message.options().begin(),
                                                   message.options().end());
  for (const auto& [key, value] : options) {
    absl::StrAppend(&out, " ", key, "=", value);
  }
  if (message.bits() != 0) {
    absl::StrAppend(&out, " bits=", message.bits());
  }
  if (message.group_size() != 0) {
    absl::StrAppend(&out, " group_size=", message.group_size());
  }
  return Shown(out);
}

std::string Canonical(const google::protobuf::Message& message) {
  std::string out;
  google::protobuf::io::StringOutputStream stream(&out);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return out;
}

}  // namespace quantd
