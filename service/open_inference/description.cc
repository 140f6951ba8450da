#include "service/open_inference/description.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantd {

std::vector<TensorDescription> InputsOf(const Model& model) {
  const bool text = model.tokenizer() != nullptr;
  std::vector<TensorDescription> out = {
      {"input_ids", "INT64", inference::TYPE_INT64, {-1, -1}, text},
      {"attention_mask", "INT64", inference::TYPE_INT64, {-1, -1}, true}};
  if (text) {
    out.push_back({"text_input", "BYTES", inference::TYPE_STRING, {-1}, true});
  }
  if (text && !model.is_encoder()) {
    out.push_back({"stream", "BOOL", inference::TYPE_BOOL, {1}, true});
    out.push_back({"sampling_parameters", "BYTES", inference::TYPE_STRING, {1}, true});
  }
  return out;
}

std::vector<TensorDescription> OutputsOf(const Model& model) {
  const int64_t hidden = model.config().hidden_size;
  if (model.is_encoder()) {
    return {{"last_hidden_state", "FP32", inference::TYPE_FP32, {-1, -1, hidden}},
            {"sentence_embedding", "FP32", inference::TYPE_FP32, {-1, hidden}}};
  }
  std::vector<TensorDescription> out = {
      {"logits", "FP32", inference::TYPE_FP32, {-1, -1, model.config().vocab_size}}};
  if (model.tokenizer() != nullptr) {
    out.push_back({"text_output", "BYTES", inference::TYPE_STRING, {-1}});
  }
  return out;
}

void FillMetadata(const std::string& name, const Model& model,
                  inference::ModelMetadataResponse& out) {
  out.set_name(name);
  out.add_versions(kModelVersion);
  out.set_platform("quantd");
  const auto fill = [](const TensorDescription& tensor, auto& message) {
    message.set_name(tensor.name);
    message.set_datatype(tensor.datatype);
    message.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  };
  for (const TensorDescription& tensor : InputsOf(model)) {
    fill(tensor, *out.add_inputs());
  }
  for (const TensorDescription& tensor : OutputsOf(model)) {
    fill(tensor, *out.add_outputs());
  }
}

void FillConfig(const std::string& name, const Model& model, inference::ModelConfig& out) {
  out.set_name(name);
  out.set_platform("quantd");
  out.set_backend("quantd");
  out.set_max_batch_size(0);  // shapes below hold the batch dimension
  out.mutable_version_policy()->mutable_latest()->set_num_versions(1);
  for (const TensorDescription& tensor : InputsOf(model)) {
    auto& input = *out.add_input();
    input.set_name(tensor.name);
    input.set_data_type(tensor.type);
    input.mutable_dims()->Add(tensor.shape.begin(), tensor.shape.end());
    input.set_optional(tensor.optional);
  }
  for (const TensorDescription& tensor : OutputsOf(model)) {
    auto& output = *out.add_output();
    output.set_name(tensor.name);
    output.set_data_type(tensor.type);
    output.mutable_dims()->Add(tensor.shape.begin(), tensor.shape.end());
  }
  auto& group = *out.add_instance_group();
  group.set_name(name);
  group.set_count(1);
  group.set_kind(absl::StartsWith(model.device(), "cpu") ? inference::ModelInstanceGroup::KIND_CPU
                                                         : inference::ModelInstanceGroup::KIND_GPU);
  out.mutable_dynamic_batching();
  out.mutable_model_transaction_policy()->set_decoupled(!model.is_encoder() &&
                                                        model.tokenizer() != nullptr);
  const auto fact = [&out](const char* key, const std::string& value) {
    (*out.mutable_parameters())[key].set_string_value(value);
  };
  fact("architecture", model.config().architecture);
  fact("quantization", model.quantization());
  fact("device", model.device());
  fact("compute", model.compute() == Compute::kExact ? "exact" : "fast");
  fact("quantize_activations", model.quantizes_activations() ? "true" : "false");
  fact("context_length", absl::StrCat(model.context_length()));
}

void FillStatistics(const std::string& name, const Model& model, const ModelCounters& counters,
                    inference::ModelStatistics& out) {
  const auto fill = [](const DurationSum& sum, inference::StatisticDuration& message) {
    message.set_count(sum.count);
    message.set_ns(sum.nanoseconds);
  };
  out.set_name(name);
  out.set_version(kModelVersion);
  out.set_last_inference(counters.last_inference_ms);
  out.set_inference_count(counters.inferences);
  out.set_execution_count(counters.executions);
  auto& stats = *out.mutable_inference_stats();
  fill(counters.success, *stats.mutable_success());
  fill(counters.fail, *stats.mutable_fail());
  fill(counters.queue, *stats.mutable_queue());
  fill(counters.input, *stats.mutable_compute_input());
  fill(counters.infer, *stats.mutable_compute_infer());
  fill(counters.output, *stats.mutable_compute_output());
  fill({}, *stats.mutable_cache_hit());
  fill({}, *stats.mutable_cache_miss());
  for (const auto& [size, sums] : counters.by_batch) {
    auto& batch = *out.add_batch_stats();
    batch.set_batch_size(static_cast<uint64_t>(size));
    fill(sums[0], *batch.mutable_compute_input());
    fill(sums[1], *batch.mutable_compute_infer());
    fill(sums[2], *batch.mutable_compute_output());
  }
  const ModelMemory memory = model.memory();
  auto& usage = *out.add_memory_usage();
  usage.set_type(absl::StartsWith(model.device(), "cpu") ? "CPU" : "GPU");
  usage.set_byte_size(memory.weight_bytes + memory.kv_bytes + memory.workspace_bytes);
}

}  // namespace quantd
