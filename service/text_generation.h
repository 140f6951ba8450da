// Generation requests of both APIs, checked and handed to a model.
#ifndef QUANTD_SERVICE_TEXT_GENERATION_H_
#define QUANTD_SERVICE_TEXT_GENERATION_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "quant/v1/inference.pb.h"
#include "service/context.h"

namespace quantd {

// INVALID_ARGUMENT names the field that is out of its range.
absl::StatusOr<GenerationOptions> OptionsFrom(const quant::v1::GenerateRequest& request);
absl::Status CheckOptions(const GenerationOptions& options);

// Token ids of a text as the model's own configuration says. FAILED_PRECONDITION when the model has
// no tokenizer, INVALID_ARGUMENT for an empty result, OUT_OF_RANGE past the context.
absl::StatusOr<std::vector<int32_t>> EncodeText(const Model& model, absl::string_view text,
                                                bool add_special_tokens = true);
absl::StatusOr<std::vector<int32_t>> EncodeMessages(const Model& model,
                                                    const quant::v1::Chat& chat);
// Ids of a request: in the vocabulary, at least one, within the context.
absl::Status CheckTokens(const Model& model, const std::vector<int32_t>& tokens);
absl::StatusOr<std::vector<int32_t>> PromptTokens(const Model& model,
                                                  const quant::v1::GenerateRequest& request);

// Queues the generation; `lease` lives until the sink has finished. Metrics are counted on the way.
absl::Status StartGeneration(ServiceContext& services, std::shared_ptr<const ModelLease> lease,
                             std::vector<int32_t> prompt, const GenerationOptions& options,
                             absl::Time deadline, std::shared_ptr<GenerationSink> sink);

// Calls `use` with the tokenizer of a model of the root, loaded or not.
absl::Status WithTokenizer(ServiceContext& services, const std::string& model,
                           absl::FunctionRef<absl::Status(const Tokenizer&)> use);

bool IsUtf8(absl::string_view text);
absl::string_view FinishReasonName(FinishReason reason);

}  // namespace quantd

#endif  // QUANTD_SERVICE_TEXT_GENERATION_H_
