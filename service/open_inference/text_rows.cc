#include "service/open_inference/text_rows.h"

#include <mutex>

#include "absl/time/clock.h"
#include "service/open_inference/description.h"
#include "service/open_inference/tensor_data.h"
#include "service/text_generation.h"

namespace quantd {
namespace {

void AddUsage(FinishReason reason, const GenerationUsage& usage,
              inference::ModelInferResponse& out) {
  auto& parameters = *out.mutable_parameters();
  parameters["finish_reason"].set_string_param(std::string(FinishReasonName(reason)));
  parameters["prompt_tokens"].set_int64_param(usage.prompt_tokens);
  parameters["generated_tokens"].set_int64_param(usage.generated_tokens);
}

// Shared by the sinks of a request's rows; the last one to end answers.
class Rows : public std::enable_shared_from_this<Rows> {
 public:
  Rows(ServiceContext& services, const InferCall& call, size_t rows)
      : services_(services), call_(call), start_(absl::Now()), texts_(rows), open_(rows) {}

  bool gone() const { return failed_ || *call_.cancelled; }
  bool Ready() const { return gone() || call_.reply->Ready(); }

  bool Gather(size_t row, const GenerationChunk& chunk) {
    texts_[row] += chunk.text;  // only this row's sink touches it
    return !gone();
  }

  bool Stream(GenerationChunk chunk) {
    inference::ModelInferResponse response = ResponseTo(*call_.request);
    AddStrings("text_output", {1}, std::vector<std::string>{std::move(chunk.text)}, response);
    MarkFinal(false, response);
    return call_.reply->Push(std::move(response)) && !gone();
  }

  void End(const absl::Status& status, FinishReason reason, const GenerationUsage& usage,
           bool streamed) {
    {
      std::lock_guard lock(mutex_);
      if (!status.ok() && status_.ok()) {
        status_ = status;
        failed_ = true;
      }
      usage_.prompt_tokens += usage.prompt_tokens;
      usage_.generated_tokens += usage.generated_tokens;
      usage_.queued += usage.queued;
      usage_.prefill += usage.prefill;
      usage_.decode += usage.decode;
      if (--open_ > 0) {
        return;
      }
    }
    if (status_.ok()) {
      Answer(reason, streamed);
    }
    Count();
    call_.reply->Finish(status_);
  }

 private:
  void Answer(FinishReason reason, bool streamed) {
    inference::ModelInferResponse response = ResponseTo(*call_.request);
    const std::vector<std::string> texts = streamed ? std::vector<std::string>{""} : texts_;
    AddStrings("text_output", {static_cast<int64_t>(texts.size())}, texts, response);
    AddUsage(reason, usage_, response);
    if (call_.streaming) {
      MarkFinal(true, response);
    }
    call_.reply->Push(std::move(response));
  }

  void Count() {
    InferenceRecord record;
    record.ok = status_.ok();
    record.sequences = static_cast<int64_t>(texts_.size());
    record.total = absl::Now() - start_;
    record.queue = usage_.queued;
    record.infer = usage_.prefill + usage_.decode;
    services_.statistics.Add(call_.request->model_name(), record);
  }

  ServiceContext& services_;
  const InferCall call_;
  const absl::Time start_;
  std::vector<std::string> texts_;
  std::mutex mutex_;
  size_t open_;
  std::atomic<bool> failed_{false};
  absl::Status status_;
  GenerationUsage usage_;
};

class RowSink final : public GenerationSink {
 public:
  RowSink(std::shared_ptr<Rows> rows, size_t row, bool stream)
      : rows_(std::move(rows)), row_(row), stream_(stream) {}
  bool Push(GenerationChunk chunk) override {
    return stream_ ? rows_->Stream(std::move(chunk)) : rows_->Gather(row_, chunk);
  }
  bool Ready() const override { return rows_->Ready(); }
  void Finish(absl::Status status, FinishReason reason, const GenerationUsage& usage) override {
    rows_->End(status, reason, usage, stream_);
  }

 private:
  const std::shared_ptr<Rows> rows_;
  const size_t row_;
  const bool stream_;
};

}  // namespace

inference::ModelInferResponse ResponseTo(const inference::ModelInferRequest& request) {
  inference::ModelInferResponse response;
  response.set_model_name(request.model_name());
  response.set_model_version(kModelVersion);
  response.set_id(request.id());
  return response;
}

void MarkFinal(bool is_final, inference::ModelInferResponse& response) {
  (*response.mutable_parameters())["triton_final_response"].set_bool_param(is_final);
}

void GenerateRows(ServiceContext& services, const InferCall& call,
                  std::shared_ptr<const ModelLease> lease,
                  std::vector<std::vector<int32_t>> prompts, const GenerationOptions& options,
                  bool one_by_one) {
  const auto rows = std::make_shared<Rows>(services, call, prompts.size());
  for (size_t row = 0; row < prompts.size(); ++row) {
    const absl::Status started =
        StartGeneration(services, lease, std::move(prompts[row]), options, call.deadline,
                        std::make_shared<RowSink>(rows, row, one_by_one));
    if (!started.ok()) {
      rows->End(started, FinishReason::kLength, {}, one_by_one);
    }
  }
}

}  // namespace quantd
