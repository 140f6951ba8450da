#include "service/text_generation.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/common.h"
#include "models/model_text.h"
#include "models/tokenizers/tokenizer.h"
#include "service/status.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;

// Passes a generation on, keeps the model leased, and counts.
class CountingSink final : public GenerationSink {
 public:
  CountingSink(ServiceContext& services, std::shared_ptr<const ModelLease> lease,
               std::shared_ptr<GenerationSink> sink)
      : services_(services), lease_(std::move(lease)), sink_(std::move(sink)) {}

  bool Push(GenerationChunk chunk) override { return sink_->Push(std::move(chunk)); }
  bool Ready() const override { return sink_->Ready(); }
  void Finish(absl::Status status, FinishReason reason, const GenerationUsage& usage) override {
    services_.metrics.GenerationDone(
        usage.prompt_tokens, usage.generated_tokens,
        absl::ToDoubleSeconds(usage.queued + usage.prefill),
        absl::ToDoubleSeconds(usage.decode) / std::max(1, usage.generated_tokens));
    sink_->Finish(std::move(status), reason, usage);
    sink_.reset();
    lease_.reset();  // an unload may go on, whoever still holds this object
  }

 private:
  ServiceContext& services_;
  std::shared_ptr<const ModelLease> lease_;
  std::shared_ptr<GenerationSink> sink_;
};

}  // namespace

absl::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
  }
  return "";
}

bool IsUtf8(absl::string_view text) {
  return google::protobuf::internal::IsStructurallyValidUTF8(text.data(),
                                                             static_cast<int>(text.size()));
}

absl::Status CheckOptions(const GenerationOptions& options) {
  const SamplingOptions& sampling = options.sampling;
  // Written so that NaN fails.
  if (!(sampling.temperature >= 0 && sampling.temperature <= 100)) {
    return FieldError("temperature", "must be between 0 and 100");
  }
  if (sampling.top_k < 0) {
    return FieldError("top_k", "must not be negative");
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return FieldError("top_p", "must be in (0, 1]");
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return FieldError("min_p", "must be in [0, 1]");
  }
  if (!(sampling.repetition_penalty > 0 && std::isfinite(sampling.repetition_penalty))) {
    return FieldError("repetition_penalty", "must be a number above 0");
  }
  if (options.max_tokens <= 0) {
    return FieldError("max_tokens", absl::StrCat(options.max_tokens, " must be positive"));
  }
  if (options.stop.size() > kMaxStops) {
    return FieldError("stop", absl::StrCat(options.stop.size(), " strings; at most ", kMaxStops));
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return FieldError("stop", absl::StrCat("each string has 1 to ", kMaxStopBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerationOptions> OptionsFrom(const pb::GenerateRequest& request) {
  GenerationOptions options;
  const pb::SamplingOptions& sampling = request.sampling();
  options.sampling.temperature = sampling.temperature();
  options.sampling.top_k = sampling.top_k();
  options.sampling.top_p = sampling.has_top_p() ? sampling.top_p() : 1;
  options.sampling.min_p = sampling.min_p();
  options.sampling.repetition_penalty =
      sampling.has_repetition_penalty() ? sampling.repetition_penalty() : 1;
  if (sampling.has_seed()) {
    options.sampling.seed = sampling.seed();
  }
  options.max_tokens = request.max_tokens() == 0 ? 256 : request.max_tokens();
  options.ignore_eos = request.ignore_eos();
  options.logprobs = request.logprobs();
  options.stop.assign(request.stop().begin(), request.stop().end());
  RETURN_IF_ERROR(CheckOptions(options));
  return options;
}

absl::Status CheckTokens(const Model& model, const std::vector<int32_t>& tokens) {
  if (tokens.empty()) {
    return absl::InvalidArgumentError("the prompt is empty: at least one token is needed");
  }
  const int64_t vocabulary = model.config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", tokens[i], " at position ", i,
                                                     " is not in the vocabulary of ", vocabulary));
    }
  }
  if (tokens.size() > static_cast<size_t>(model.context_length())) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", tokens.size(),
                                              " tokens; the model's context holds ",
                                              model.context_length()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const Model& model, absl::string_view text,
                                                bool add_special_tokens) {
  if (model.tokenizer() == nullptr) {
    return WithReason(
        absl::FailedPreconditionError("the model has no tokenizer: send token ids instead of text"),
        "NO_TOKENIZER");
  }
  EncodeOptions options;
  options.add_special_tokens = add_special_tokens;
  return model.tokenizer()->Encode(text, options);
}

absl::StatusOr<std::vector<int32_t>> EncodeMessages(const Model& model, const pb::Chat& chat) {
  if (chat.messages().empty()) {
    return FieldError("chat.messages", "must not be empty");
  }
  std::vector<std::pair<std::string, std::string>> messages;
  for (const pb::ChatMessage& message : chat.messages()) {
    if (message.role() != "system" && message.role() != "user" && message.role() != "assistant") {
      return FieldError("chat.messages.role", absl::StrCat("\"", Shown(message.role()),
                                                           "\" must be system, user or assistant"));
    }
    messages.emplace_back(message.role(), message.content());
  }
  if (model.tokenizer() == nullptr || !model.has_chat_template()) {
    return WithReason(
        absl::FailedPreconditionError("the model has no chat template: send text or token ids"),
        "NO_CHAT_TEMPLATE");
  }
  return model.EncodeChat(messages);
}

absl::StatusOr<std::vector<int32_t>> PromptTokens(const Model& model,
                                                  const pb::GenerateRequest& request) {
  std::vector<int32_t> tokens;
  switch (request.prompt_case()) {
    case pb::GenerateRequest::kText: {
      if (request.text().empty()) {
        return FieldError("text", "must not be empty");
      }
      ASSIGN_OR_RETURN(tokens, EncodeText(model, request.text()));
      break;
    }
    case pb::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(tokens, EncodeMessages(model, request.chat()));
      break;
    }
    case pb::GenerateRequest::kTokens:
      tokens.assign(request.tokens().ids().begin(), request.tokens().ids().end());
      break;
    case pb::GenerateRequest::PROMPT_NOT_SET:
      return FieldError("prompt", "one of text, chat and tokens is required");
  }
  RETURN_IF_ERROR(CheckTokens(model, tokens));
  return tokens;
}

absl::Status WithTokenizer(ServiceContext& services, const std::string& model,
                           absl::FunctionRef<absl::Status(const Tokenizer&)> use) {
  const absl::Status missing =
      WithReason(absl::FailedPreconditionError("the model has no tokenizer"), "NO_TOKENIZER");
  if (const auto lease = services.repository->Acquire(model); lease.ok()) {
    const Tokenizer* tokenizer = (*lease)->model().tokenizer();
    return tokenizer != nullptr ? use(*tokenizer) : missing;
  }
  RETURN_IF_ERROR(services.root->Find(model).status());
  ASSIGN_OR_RETURN(const auto source, OpenModelSource(services.root, model));
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(*source));
  return text.tokenizer != nullptr ? use(*text.tokenizer) : missing;
}

absl::Status StartGeneration(ServiceContext& services, std::shared_ptr<const ModelLease> lease,
                             std::vector<int32_t> prompt, const GenerationOptions& options,
                             absl::Time deadline, std::shared_ptr<GenerationSink> sink) {
  Model& model = lease->model();
  if (model.is_encoder()) {
    return absl::UnimplementedError(
        "the model is an encoder and generates no text; ask for embeddings instead");
  }
  return model.Generate(
      std::move(prompt), options, deadline,
      std::make_shared<CountingSink>(services, std::move(lease), std::move(sink)));
}

}  // namespace quantd
