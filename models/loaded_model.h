// The implementation of Model: checks requests and hands them to the scheduler.
#ifndef QUANTD_MODELS_LOADED_MODEL_H_
#define QUANTD_MODELS_LOADED_MODEL_H_

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/engine.h"
#include "models/generation.h"
#include "models/model.h"
#include "models/model_text.h"
#include "models/scheduler.h"

namespace quantd {

class LoadedModel final : public Model {
 public:
  LoadedModel(std::shared_ptr<Engine> engine, ModelText text, std::string quantization,
              const LoadOptions& options);

  const ModelConfig& config() const override { return engine_->config; }
  std::string quantization() const override { return quantization_; }
  std::string device() const override { return engine_->device; }
  Compute compute() const override { return compute_; }
  bool quantizes_activations() const override { return quantizes_activations_; }
  ModelMemory memory() const override;
  int32_t context_length() const override { return engine_->context_length; }
  bool is_encoder() const override { return engine_->encoder != nullptr; }
  const Tokenizer* tokenizer() const override { return text_.tokenizer.get(); }
  bool has_chat_template() const override { return text_.chat_template.has_value(); }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const std::vector<std::pair<std::string, std::string>>& messages) const override;

  absl::Status Generate(std::vector<int32_t> prompt, const GenerationOptions& options,
                        absl::Time deadline, std::shared_ptr<GenerationSink> sink) override;
  absl::StatusOr<std::vector<float>> Logits(const std::vector<std::vector<int32_t>>& batch,
                                            StopCheck stop) override;
  absl::Status VisitLogits(const std::vector<std::vector<int32_t>>& batch, int32_t first_position,
                           LogitsVisitor visit, StopCheck stop) override;
  absl::StatusOr<std::vector<TokenScore>> Score(const std::vector<int32_t>& tokens, int32_t top_n,
                                                StopCheck stop) override;
  absl::StatusOr<std::vector<Encoding>> Encode(const std::vector<std::vector<int32_t>>& sequences,
                                               std::optional<bool> normalize,
                                               StopCheck stop) override;

  Activity activity() const override { return scheduler_.activity(); }
  void Drain(absl::Time deadline) override { scheduler_.Drain(deadline); }

 private:
  absl::Status CheckTokens(std::span<const int32_t> tokens) const;
  absl::Status CheckIsDecoder() const;

  const std::shared_ptr<Engine> engine_;
  const ModelText text_;
  const std::string quantization_;
  const Compute compute_;
  const bool quantizes_activations_;
  const int32_t max_sequences_;
  const std::shared_ptr<const GenerationModel> generation_model_;
  Scheduler scheduler_;  // last: its thread ends before the rest goes
};

}  // namespace quantd

#endif  // QUANTD_MODELS_LOADED_MODEL_H_
