#include "quant/v1/evaluation.grpc.pb.h"

#include "models/evaluation.h"
#include "service/handlers/handlers.h"
#include "service/status.h"
#include "service/stream.h"
#include "service/unary.h"

namespace quantd {
namespace {

namespace pb = quant::v1;
using ProgressStream = ResponseStream<pb::EvaluateResponse>;

void Fill(const EvaluationResult& result, double seconds, pb::EvaluateResult& out) {
  out.set_perplexity(result.perplexity);
  out.set_perplexity_error(result.perplexity_error);
  out.set_scored_tokens(result.scored_tokens);
  if (result.mean_kl_divergence.has_value()) {
    out.set_mean_kl_divergence(*result.mean_kl_divergence);
  }
  if (result.top1_agreement.has_value()) {
    out.set_top1_agreement(*result.top1_agreement);
  }
  if (result.reference_perplexity.has_value()) {
    out.set_reference_perplexity(*result.reference_perplexity);
  }
  if (result.mean_cosine.has_value()) {
    out.set_mean_cosine(*result.mean_cosine);
  }
  out.set_elapsed_seconds(seconds);
}

class EvaluationHandlers final : public pb::EvaluationService::CallbackService {
 public:
  explicit EvaluationHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerWriteReactor<pb::EvaluateResponse>* Evaluate(
      grpc::CallbackServerContext* context, const pb::EvaluateRequest* request) override {
    const auto stream = ProgressStream::Make(services_, context,
                                             "quant.v1.EvaluationService/Evaluate", Access::kInfer);
    if (!stream->closed()) {
      stream->set_model(request->model());
      const absl::Status queued = services_.evaluation->Submit(
          [this, stream, request = *request] { stream->Close(Run(*stream, request)); });
      if (!queued.ok()) {
        stream->Close(queued);
      }
    }
    return stream.get();
  }

 private:
  absl::Status Run(ProgressStream& stream, const pb::EvaluateRequest& request) {
    if (request.context_length() < 0) {
      return FieldError("context_length", "must not be negative");
    }
    if (request.max_tokens() < 0) {
      return FieldError("max_tokens", "must not be negative");
    }
    if (request.text().empty()) {
      return FieldError("text", "must not be empty");
    }
    ASSIGN_OR_RETURN(const auto lease, services_.repository->Acquire(request.model()));
    std::shared_ptr<const ModelLease> reference;
    if (!request.reference().empty()) {
      ASSIGN_OR_RETURN(reference, services_.repository->Acquire(request.reference()));
    }
    EvaluationOptions options;
    if (request.context_length() > 0) {
      options.context_length = request.context_length();
    }
    options.max_tokens = request.max_tokens();
    options.cancelled = [&stream, this] { return stream.cancelled() || services_.draining; };
    options.on_progress = [&stream](int64_t done, int64_t total) {
      if (stream.Drained()) {  // a slow reader gets the newest state, not a backlog
        pb::EvaluateResponse progress;
        progress.set_tokens_done(done);
        progress.set_tokens_total(total);
        stream.Push(std::move(progress));
      }
    };
    const auto start = std::chrono::steady_clock::now();
    auto result = quantd::Evaluate(lease->model(), reference ? &reference->model() : nullptr,
                                   request.text(), options);
    if (!result.ok()) {
      return services_.draining && absl::IsCancelled(result.status())
                 ? absl::UnavailableError("the server is shutting down")
                 : result.status();
    }
    pb::EvaluateResponse last;
    last.set_tokens_done(result->scored_tokens);
    last.set_tokens_total(result->scored_tokens);
    Fill(*result, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
         *last.mutable_result());
    stream.Push(std::move(last));
    return absl::OkStatus();
  }

  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewEvaluationService(ServiceContext& services) {
  return std::make_unique<EvaluationHandlers>(services);
}

}  // namespace quantd
