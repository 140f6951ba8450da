#include "quant/v1/inference.grpc.pb.h"

#include "absl/strings/str_cat.h"
#include "models/tokenizers/tokenizer.h"
#include "service/handlers/handlers.h"
#include "service/status.h"
#include "service/stream.h"
#include "service/text_generation.h"
#include "service/unary.h"

namespace quantd {
namespace {

namespace pb = quant::v1;
using TokenStream = ResponseStream<pb::GenerateResponse>;

pb::FinishReason ToMessage(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return pb::EOS;
    case FinishReason::kStop:
      return pb::STOP;
    case FinishReason::kLength:
      return pb::LENGTH;
  }
  return pb::FINISH_REASON_UNSPECIFIED;
}

// True once the client has cancelled or its deadline has passed.
StopCheck StopWith(const Call& call) {
  return [cancelled = call.cancelled_flag()] { return cancelled->load(); };
}

// Feeds one client's stream from the model's scheduler.
class GenerateSink final : public GenerationSink {
 public:
  GenerateSink(std::shared_ptr<TokenStream> stream, bool logprobs)
      : stream_(std::move(stream)), logprobs_(logprobs) {}

  bool Push(GenerationChunk chunk) override {
    pb::GenerateResponse response;
    if (IsUtf8(chunk.text)) {
      response.set_text(std::move(chunk.text));
    } else {
      response.set_raw_text(std::move(chunk.text));
    }
    response.mutable_token_ids()->Add(chunk.token_ids.begin(), chunk.token_ids.end());
    if (logprobs_) {
      response.mutable_logprobs()->Add(chunk.logprobs.begin(), chunk.logprobs.end());
    }
    return stream_->Push(std::move(response));
  }

  bool Ready() const override { return stream_->Ready(); }

  void Finish(absl::Status status, FinishReason reason, const GenerationUsage& usage) override {
    if (status.ok()) {
      pb::GenerateResponse last;
      last.set_finish_reason(ToMessage(reason));
      pb::GenerateUsage& out = *last.mutable_usage();
      out.set_prompt_tokens(usage.prompt_tokens);
      out.set_generated_tokens(usage.generated_tokens);
      out.set_queue_seconds(absl::ToDoubleSeconds(usage.queued));
      out.set_prefill_seconds(absl::ToDoubleSeconds(usage.prefill));
      out.set_decode_seconds(absl::ToDoubleSeconds(usage.decode));
      stream_->Push(std::move(last));
    }
    stream_->Close(status);
  }

 private:
  const std::shared_ptr<TokenStream> stream_;
  const bool logprobs_;
};

class InferenceHandlers final : public pb::InferenceService::CallbackService {
 public:
  explicit InferenceHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerWriteReactor<pb::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const pb::GenerateRequest* request) override {
    const auto stream =
        TokenStream::Make(services_, context, "quant.v1.InferenceService/Generate", Access::kInfer);
    if (!stream->closed()) {
      stream->set_model(request->model());
      const absl::Status queued = services_.inference->Submit([this, stream, request = *request] {
        if (const absl::Status status = StartGenerate(stream, request); !status.ok()) {
          stream->Close(status);
        }
      });
      if (!queued.ok()) {
        stream->Close(queued);
      }
    }
    return stream.get();
  }

  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const pb::EmbedRequest* request,
                                  pb::EmbedResponse* response) override {
    return RunUnary(services_, context, "quant.v1.InferenceService/Embed", Access::kInfer,
                    *services_.inference, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return RunEmbed(*request, *response, call);
                    });
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const pb::ScoreRequest* request,
                                  pb::ScoreResponse* response) override {
    return RunUnary(services_, context, "quant.v1.InferenceService/Score", Access::kInfer,
                    *services_.inference, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return RunScore(*request, *response, call);
                    });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const pb::TokenizeRequest* request,
                                     pb::TokenizeResponse* response) override {
    return RunUnary(services_, context, "quant.v1.InferenceService/Tokenize", Access::kInfer,
                    *services_.inference, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return RunTokenize(*request, *response);
                    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const pb::DetokenizeRequest* request,
                                       pb::DetokenizeResponse* response) override {
    return RunUnary(services_, context, "quant.v1.InferenceService/Detokenize", Access::kInfer,
                    *services_.inference, [this, request, response](UnaryCall& call) {
                      call.set_model(request->model());
                      return RunDetokenize(*request, *response);
                    });
  }

 private:
  absl::Status StartGenerate(const std::shared_ptr<TokenStream>& stream,
                             const pb::GenerateRequest& request) {
    if (stream->cancelled()) {
      return absl::CancelledError("the client cancelled the call");
    }
    ASSIGN_OR_RETURN(const GenerationOptions options, OptionsFrom(request));
    ASSIGN_OR_RETURN(auto lease, services_.repository->Acquire(request.model()));
    ASSIGN_OR_RETURN(std::vector<int32_t> prompt, PromptTokens(lease->model(), request));
    return StartGeneration(services_, std::move(lease), std::move(prompt), options,
                           stream->deadline(),
                           std::make_shared<GenerateSink>(stream, request.logprobs()));
  }

  absl::Status RunEmbed(const pb::EmbedRequest& request, pb::EmbedResponse& response,
                        const Call& call) {
    if (request.texts().empty() || request.texts_size() > 256) {
      return FieldError("texts",
                        absl::StrCat(request.texts_size(), " texts; 1 to 256 are allowed"));
    }
    ASSIGN_OR_RETURN(const auto lease, services_.repository->Acquire(request.model()));
    Model& model = lease->model();
    if (!model.is_encoder()) {
      return absl::UnimplementedError(absl::StrCat("model \"", request.model(), "\" (",
                                                   model.config().architecture,
                                                   ") is not an encoder and has no embeddings"));
    }
    std::vector<std::vector<int32_t>> sequences;
    for (const std::string& text : request.texts()) {
      ASSIGN_OR_RETURN(std::vector<int32_t> tokens, EncodeText(model, text));
      const auto limit = static_cast<size_t>(model.context_length());
      if (request.truncate() && tokens.size() > limit && limit > 0) {
        tokens[limit - 1] = tokens.back();  // the closing special token stays
        tokens.resize(limit);
      }
      RETURN_IF_ERROR(CheckTokens(model, tokens));
      sequences.push_back(std::move(tokens));
    }
    const std::optional<bool> normalize =
        request.has_normalize() ? std::optional<bool>(request.normalize()) : std::nullopt;
    ASSIGN_OR_RETURN(const auto encodings, model.Encode(sequences, normalize, StopWith(call)));
    for (size_t i = 0; i < encodings.size(); ++i) {
      pb::EmbedResponse::Embedding& out = *response.add_embeddings();
      out.mutable_values()->Add(encodings[i].sentence_embedding.begin(),
                                encodings[i].sentence_embedding.end());
      out.set_tokens(static_cast<int32_t>(sequences[i].size()));
    }
    return absl::OkStatus();
  }

  absl::Status RunScore(const pb::ScoreRequest& request, pb::ScoreResponse& response,
                        const Call& call) {
    if (request.top_n() < 0 || request.top_n() > 20) {
      return FieldError("top_n", "must be between 0 and 20");
    }
    ASSIGN_OR_RETURN(const auto lease, services_.repository->Acquire(request.model()));
    Model& model = lease->model();
    if (model.is_encoder()) {
      return absl::UnimplementedError("the model is an encoder and has no log-probabilities");
    }
    std::vector<int32_t> tokens;
    if (request.input_case() == pb::ScoreRequest::kText) {
      ASSIGN_OR_RETURN(tokens, EncodeText(model, request.text()));
    } else if (request.input_case() == pb::ScoreRequest::kTokens) {
      tokens.assign(request.tokens().ids().begin(), request.tokens().ids().end());
    } else {
      return FieldError("input", "one of text and tokens is required");
    }
    RETURN_IF_ERROR(CheckTokens(model, tokens));
    ASSIGN_OR_RETURN(const auto scores, model.Score(tokens, request.top_n(), StopWith(call)));
    double total = 0;
    for (size_t i = 0; i < scores.size() && i < tokens.size(); ++i) {
      pb::ScoreResponse::Token& out = *response.add_tokens();
      out.set_id(tokens[i]);
      if (model.tokenizer() != nullptr) {
        out.set_text(model.tokenizer()->TokenBytes(tokens[i]));
      }
      out.set_logprob(scores[i].logprob);
      out.mutable_top_ids()->Add(scores[i].top_ids.begin(), scores[i].top_ids.end());
      out.mutable_top_logprobs()->Add(scores[i].top_logprobs.begin(), scores[i].top_logprobs.end());
      total += i == 0 ? 0 : scores[i].logprob;
    }
    response.set_total_logprob(total);
    return absl::OkStatus();
  }

  absl::Status RunTokenize(const pb::TokenizeRequest& request, pb::TokenizeResponse& response) {
    if (request.has_chat() && !request.text().empty()) {
      return FieldError("text", "must be empty when chat is set");
    }
    if (request.has_chat()) {
      ASSIGN_OR_RETURN(const auto lease, services_.repository->Acquire(request.model()));
      ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                       EncodeMessages(lease->model(), request.chat()));
      FillTokens(*lease->model().tokenizer(), ids, response);
      return absl::OkStatus();
    }
    EncodeOptions options;
    options.add_special_tokens = !request.has_add_special_tokens() || request.add_special_tokens();
    return WithTokenizer(services_, request.model(),
                         [&](const Tokenizer& tokenizer) -> absl::Status {
                           ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                                            tokenizer.Encode(request.text(), options));
                           FillTokens(tokenizer, ids, response);
                           return absl::OkStatus();
                         });
  }

  static void FillTokens(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                         pb::TokenizeResponse& response) {
    response.mutable_ids()->Add(ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) {
      response.add_pieces(tokenizer.TokenBytes(ids[i], i == 0));
    }
  }

  absl::Status RunDetokenize(const pb::DetokenizeRequest& request,
                             pb::DetokenizeResponse& response) {
    const std::vector<int32_t> ids(request.ids().begin(), request.ids().end());
    return WithTokenizer(
        services_, request.model(), [&](const Tokenizer& tokenizer) -> absl::Status {
          ASSIGN_OR_RETURN(std::string text, tokenizer.Decode(ids, request.skip_special_tokens()));
          response.set_text(std::move(text));
          return absl::OkStatus();
        });
  }

  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewInferenceService(ServiceContext& services) {
  return std::make_unique<InferenceHandlers>(services);
}

}  // namespace quantd
