#include "service/open_inference/inference.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "service/open_inference/attention_mask.h"
#include "service/open_inference/description.h"
#include "service/open_inference/parameters.h"
#include "service/open_inference/tensor_data.h"
#include "service/open_inference/text_rows.h"
#include "service/status.h"
#include "service/text_generation.h"

namespace quantd {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using Sequences = std::vector<std::vector<int32_t>>;

constexpr int64_t kMaxRows = 1024;

// The n largest of each row of the last dimension as "value:index".
std::vector<std::string> Classes(std::span<const float> values, int64_t width, int64_t n) {
  std::vector<std::string> out;
  std::vector<int64_t> order(static_cast<size_t>(width));
  for (size_t at = 0; at < values.size(); at += order.size()) {
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + n, order.end(), [&](int64_t a, int64_t b) {
      const float x = values[at + static_cast<size_t>(a)], y = values[at + static_cast<size_t>(b)];
      return x != y ? x > y : a < b;
    });
    for (int64_t i = 0; i < n; ++i) {
      const int64_t index = order[static_cast<size_t>(i)];
      out.push_back(absl::StrCat(values[at + static_cast<size_t>(index)], ":", index));
    }
  }
  return out;
}

// One request on its way through a model.
class Job {
 public:
  Job(ServiceContext& services, const InferCall& call)
      : services_(services), call_(call), request_(*call.request), start_(absl::Now()) {}

  // OK: the reply was or will be finished by somebody else.
  absl::Status Run();

 private:
  absl::Status CheckNames() const;
  bool Wants(absl::string_view output) const;
  const InputTensor* Find(const char* name) const {
    const auto it = inputs_.find(name);
    return it == inputs_.end() ? nullptr : &it->second;
  }
  absl::StatusOr<Sequences> TokenRows() const;
  absl::StatusOr<Sequences> TextRows() const;
  absl::Status CheckAnswer(int64_t rows, int64_t columns, int64_t width) const;
  absl::Status AddOutput(const std::string& name, std::vector<int64_t> shape,
                         std::span<const float> values, ModelInferResponse& out) const;

  absl::Status Text();
  absl::Status Logits();
  absl::Status Encode();
  void Answer(ModelInferResponse response, size_t rows, absl::Time computed);

  Model& model() const { return lease_->model(); }
  StopCheck Stop() const {
    return [cancelled = call_.cancelled] { return cancelled->load(); };
  }

  ServiceContext& services_;
  const InferCall& call_;
  const ModelInferRequest& request_;
  const absl::Time start_;
  std::shared_ptr<const ModelLease> lease_;
  std::map<std::string, InputTensor> inputs_;
};

absl::Status Job::Run() {
  ASSIGN_OR_RETURN(lease_,
                   AcquireForInference(services_, request_.model_name(), request_.model_version()));
  ASSIGN_OR_RETURN(inputs_, BindInputs(request_));
  RETURN_IF_ERROR(CheckNames());
  if (*call_.cancelled) {
    return absl::CancelledError("the client cancelled the call");
  }
  if (model().is_encoder()) {
    return Encode();
  }
  return Find("text_input") != nullptr ? Text() : Logits();
}

absl::Status Job::CheckNames() const {
  std::vector<std::string> known;
  for (const TensorDescription& input : InputsOf(model())) {
    known.push_back(input.name);
  }
  for (const auto& [name, tensor] : inputs_) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected input \"", Shown(name),
                                                     "\" for model \"", request_.model_name(),
                                                     "\"; it has ", absl::StrJoin(known, ", ")));
    }
  }
  const bool ids = Find("input_ids") != nullptr, text = Find("text_input") != nullptr;
  if (ids == text) {
    return absl::InvalidArgumentError(
        absl::StrCat("model \"", request_.model_name(), "\" needs exactly one of the inputs ",
                     model().tokenizer() != nullptr ? "input_ids and text_input" : "input_ids"));
  }
  std::vector<std::string> outputs;
  for (const TensorDescription& output : OutputsOf(model())) {
    const bool possible = model().is_encoder() || (output.name == "text_output") == text;
    if (possible) {
      outputs.push_back(output.name);
    }
  }
  for (const auto& output : request_.outputs()) {
    if (std::find(outputs.begin(), outputs.end(), output.name()) == outputs.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unexpected output \"", Shown(output.name()), "\" for model \"", request_.model_name(),
          "\"; from these inputs it gives ", absl::StrJoin(outputs, ", ")));
    }
    if (output.parameters().contains("shared_memory_region")) {
      return absl::UnimplementedError("shared memory is not offered");
    }
  }
  return absl::OkStatus();
}

bool Job::Wants(absl::string_view output) const {
  return request_.outputs().empty() ||
         std::any_of(request_.outputs().begin(), request_.outputs().end(),
                     [output](const auto& wanted) { return wanted.name() == output; });
}

absl::StatusOr<Sequences> Job::TokenRows() const {
  const InputTensor& ids = *Find("input_ids");
  if (ids.datatype != "INT64" && ids.datatype != "INT32") {
    return InputError("input_ids", absl::StrCat("datatype ", ids.datatype, ", expected INT64"));
  }
  if (ids.shape.size() != 2) {
    return InputError("input_ids", absl::StrCat("shape [", absl::StrJoin(ids.shape, ","),
                                                "], expected [batch, tokens]"));
  }
  const int64_t rows = ids.shape[0], width = ids.shape[1];
  if (rows > kMaxRows) {
    return InputError("input_ids", absl::StrCat("batch ", rows, "; at most ", kMaxRows));
  }
  if (width > model().context_length()) {
    return absl::OutOfRangeError(absl::StrCat("input \"input_ids\": ", width,
                                              " tokens; the model's context holds ",
                                              model().context_length()));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> values, Integers(ids));
  Sequences out(static_cast<size_t>(rows));
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= model().config().vocab_size) {
      return InputError("input_ids",
                        absl::StrCat("token id ", values[i], " is not in the vocabulary of ",
                                     model().config().vocab_size));
    }
    out[i / static_cast<size_t>(width)].push_back(static_cast<int32_t>(values[i]));
  }
  return out;
}

absl::StatusOr<Sequences> Job::TextRows() const {
  const InputTensor& text = *Find("text_input");
  if (text.elements > kMaxRows) {
    return InputError("text_input", absl::StrCat(text.elements, " texts; at most ", kMaxRows));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, Strings(text));
  Sequences out;
  for (const std::string& prompt : texts) {
    if (prompt.empty()) {
      return InputError("text_input", "an element is empty");
    }
    ASSIGN_OR_RETURN(std::vector<int32_t> tokens, EncodeText(model(), prompt));
    RETURN_IF_ERROR(CheckTokens(model(), tokens));
    out.push_back(std::move(tokens));
  }
  return out;
}

absl::Status Job::Text() {
  GenerationOptions options;
  RETURN_IF_ERROR(ApplyParameters(request_.parameters(), options));
  if (const InputTensor* sampling = Find("sampling_parameters"); sampling != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<std::string> texts, Strings(*sampling));
    if (texts.size() != 1) {
      return InputError("sampling_parameters", "expected one element");
    }
    RETURN_IF_ERROR(ApplyJsonParameters(texts[0], options));
  }
  RETURN_IF_ERROR(CheckOptions(options));
  bool one_by_one = call_.streaming;
  if (const InputTensor* stream = Find("stream"); stream != nullptr) {
    ASSIGN_OR_RETURN(const bool wanted, SingleBool(*stream));
    one_by_one = one_by_one && wanted;
  }
  ASSIGN_OR_RETURN(Sequences prompts, TextRows());
  one_by_one = one_by_one && prompts.size() == 1;
  GenerateRows(services_, call_, lease_, std::move(prompts), options, one_by_one);
  return absl::OkStatus();
}

absl::Status Job::CheckAnswer(int64_t rows, int64_t columns, int64_t width) const {
  uint64_t bytes = 4;
  if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(rows), &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<uint64_t>(columns), &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<uint64_t>(width), &bytes) ||
      bytes > services_.config.max_response_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the answer [", rows, ",", columns, ",", width, "] of FP32 is larger than ",
                     services_.config.max_response_bytes,
                     " bytes (--max-response-bytes); send fewer or shorter rows"));
  }
  return absl::OkStatus();
}

absl::Status Job::AddOutput(const std::string& name, std::vector<int64_t> shape,
                            std::span<const float> values, ModelInferResponse& out) const {
  for (const auto& wanted : request_.outputs()) {
    const auto it = wanted.parameters().find("classification");
    if (wanted.name() != name || it == wanted.parameters().end()) {
      continue;
    }
    const int64_t n = it->second.int64_param();
    if (n <= 0 || n > shape.back()) {
      return absl::InvalidArgumentError(absl::StrCat("output \"", name, "\": classification ", n,
                                                     " must be between 1 and ", shape.back()));
    }
    const int64_t width = std::exchange(shape.back(), n);
    AddStrings(name, shape, Classes(values, width, n), out);
    return absl::OkStatus();
  }
  AddFloats(name, shape, values, out);
  return absl::OkStatus();
}

absl::Status Job::Logits() {
  GenerationOptions ignored;
  RETURN_IF_ERROR(ApplyParameters(request_.parameters(), ignored));
  ASSIGN_OR_RETURN(Sequences rows, TokenRows());
  const auto batch = static_cast<int64_t>(rows.size()),
             width = static_cast<int64_t>(rows[0].size());
  ASSIGN_OR_RETURN(const std::vector<TokenRun> runs,
                   ReadAttentionMask(Find("attention_mask"), batch, width));
  // Rotary positions are relative, so padding on the left can be left out.
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row].erase(rows[row].begin(), rows[row].begin() + runs[row].first);
  }
  const int64_t vocabulary = model().config().vocab_size;
  RETURN_IF_ERROR(CheckAnswer(batch, width, vocabulary));
  ASSIGN_OR_RETURN(std::vector<float> logits, model().Logits(rows, Stop()));
  RestoreLeftPadding(runs, width, vocabulary, logits);
  const absl::Time computed = absl::Now();
  ModelInferResponse response = ResponseTo(request_);
  RETURN_IF_ERROR(AddOutput("logits", {batch, width, vocabulary}, logits, response));
  Answer(std::move(response), rows.size(), computed);
  return absl::OkStatus();
}

absl::Status Job::Encode() {
  GenerationOptions ignored;
  RETURN_IF_ERROR(ApplyParameters(request_.parameters(), ignored));
  Sequences rows;
  int64_t width = 0;
  if (Find("input_ids") != nullptr) {
    ASSIGN_OR_RETURN(rows, TokenRows());
    width = static_cast<int64_t>(rows[0].size());
    ASSIGN_OR_RETURN(const auto runs, ReadAttentionMask(Find("attention_mask"),
                                                        static_cast<int64_t>(rows.size()), width));
    for (size_t i = 0; i < rows.size(); ++i) {
      if (runs[i].first > 0) {
        return absl::UnimplementedError(
            "input \"attention_mask\": an encoder's positions are absolute; pad on the right");
      }
      rows[i].resize(static_cast<size_t>(runs[i].count));
    }
  } else {
    ASSIGN_OR_RETURN(rows, TextRows());
    for (const auto& row : rows) {
      width = std::max(width, static_cast<int64_t>(row.size()));
    }
  }
  const auto batch = static_cast<int64_t>(rows.size());
  const int64_t hidden = model().config().hidden_size;
  RETURN_IF_ERROR(CheckAnswer(batch, width, hidden));
  ASSIGN_OR_RETURN(const auto encodings, model().Encode(rows, std::nullopt, Stop()));
  const absl::Time computed = absl::Now();
  ModelInferResponse response = ResponseTo(request_);
  if (Wants("last_hidden_state")) {
    std::vector<float> values(static_cast<size_t>(batch * width * hidden));  // padding is 0
    for (size_t i = 0; i < encodings.size(); ++i) {
      std::copy(encodings[i].last_hidden_state.begin(), encodings[i].last_hidden_state.end(),
                values.begin() + static_cast<int64_t>(i) * width * hidden);
    }
    RETURN_IF_ERROR(AddOutput("last_hidden_state", {batch, width, hidden}, values, response));
  }
  if (Wants("sentence_embedding")) {
    std::vector<float> values;
    for (const Model::Encoding& encoding : encodings) {
      values.insert(values.end(), encoding.sentence_embedding.begin(),
                    encoding.sentence_embedding.end());
    }
    RETURN_IF_ERROR(AddOutput("sentence_embedding", {batch, hidden}, values, response));
  }
  Answer(std::move(response), rows.size(), computed);
  return absl::OkStatus();
}

void Job::Answer(ModelInferResponse response, size_t rows, absl::Time computed) {
  if (call_.streaming) {
    MarkFinal(true, response);
  }
  InferenceRecord record;
  record.sequences = static_cast<int64_t>(rows);
  record.infer = computed - start_;
  record.output = absl::Now() - computed;
  record.total = absl::Now() - start_;
  services_.statistics.Add(request_.model_name(), record);
  call_.reply->Push(std::move(response));
  call_.reply->Finish(absl::OkStatus());
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelLease>> AcquireForInference(ServiceContext& services,
                                                                      const std::string& model,
                                                                      const std::string& version) {
  if (!version.empty() && version != kModelVersion) {
    return absl::NotFoundError(absl::StrCat("Request for unknown model: '", Shown(model),
                                            "' has no version ", Shown(version),
                                            "; its only version is ", kModelVersion));
  }
  auto lease = services.repository->Acquire(model);
  if (absl::IsNotFound(lease.status())) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", Shown(model), "' is not found"));
  }
  if (absl::IsFailedPrecondition(lease.status())) {
    return absl::UnavailableError(lease.status().message());
  }
  return lease;
}

void Infer(ServiceContext& services, InferCall call) {
  absl::Status status = absl::ResourceExhaustedError("not enough memory for this request");
  try {
    status = Job(services, call).Run();
  } catch (const std::bad_alloc&) {
  }
  if (!status.ok()) {
    InferenceRecord record;
    record.ok = false;
    if (services.repository->Get(call.request->model_name()).state == ModelState::kReady) {
      services.statistics.Add(call.request->model_name(), record);
    }
    call.reply->Finish(status);
  }
}

}  // namespace quantd
