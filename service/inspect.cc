#include "service/inspect.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/gguf/gguf.h"
#include "formats/safetensors/safetensors.h"
#include "service/messages.h"
#include "service/status.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

// Keys with at most this many bytes of value are facts; longer ones are payload.
constexpr size_t kMaxFactBytes = 4096;

void AddFact(absl::string_view key, absl::string_view value, pb::InspectModelResponse& out) {
  if (value.size() <= kMaxFactBytes) {
    (*out.mutable_metadata())[Shown(key)] = Shown(value);
  }
}

void AddGgufFacts(const GgufMetadata& metadata, pb::InspectModelResponse& out) {
  for (const auto& [key, value] : metadata.entries()) {
    if (const auto* integer = std::get_if<int64_t>(&value.value)) {
      AddFact(key,
              value.type == GgufValueType::kBool ? (*integer != 0 ? "true" : "false")
                                                 : absl::StrCat(*integer),
              out);
    } else if (const auto* number = std::get_if<double>(&value.value)) {
      AddFact(key, absl::StrCat(*number), out);
    } else if (const auto* text = std::get_if<std::string>(&value.value)) {
      AddFact(key, *text, out);
    }
  }
}

absl::Status InspectSafetensors(std::shared_ptr<const File> file, pb::InspectModelResponse& out) {
  ASSIGN_OR_RETURN(const auto reader, SafetensorsReader::Open(std::move(file)));
  int64_t elements = 0, bytes = 0;
  for (const TensorInfo& tensor : reader->header().tensors) {
    pb::InspectModelResponse::Tensor& row = *out.add_tensors();
    row.set_name(Shown(tensor.name));
    row.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    row.set_stored_as(std::string(InfoOf(tensor.dtype).safetensors_name));
    row.set_bytes(static_cast<int64_t>(tensor.end - tensor.begin));
    elements += NumElements(tensor.shape);
    bytes += row.bytes();
  }
  for (const auto& [key, value] : reader->header().metadata) {
    AddFact(key, value, out);
  }
  pb::Model& model = *out.mutable_model();
  model.set_parameter_count(elements);
  model.set_size_bytes(bytes);
  model.set_bits_per_weight(
      elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0);
  return absl::OkStatus();
}

}  // namespace

absl::Status Inspect(const ServiceContext& services, const std::string& name,
                     pb::InspectModelResponse& out) {
  out.mutable_model()->set_name(name);
  if (absl::EndsWith(name, ".safetensors")) {
    ASSIGN_OR_RETURN(auto file, services.root->OpenFile(name));
    return InspectSafetensors(std::move(file), out);
  }
  ASSIGN_OR_RETURN(*out.mutable_model(), DescribeModel(services, name));
  ASSIGN_OR_RETURN(const auto source, OpenModelSource(services.root, name));
  for (const SourceParameter& parameter : source->parameters()) {
    pb::InspectModelResponse::Tensor& row = *out.add_tensors();
    row.set_name(Shown(parameter.name));
    row.mutable_shape()->Add(parameter.shape.begin(), parameter.shape.end());
    row.set_stored_as(Shown(parameter.stored_as));
    row.set_bytes(static_cast<int64_t>(parameter.stored_bytes));
  }
  out.set_quantization_config(source->config().quantization_config);
  if (const GgufMetadata* metadata = source->gguf_metadata(); metadata != nullptr) {
    AddGgufFacts(*metadata, out);
  }
  return absl::OkStatus();
}

}  // namespace quantd
