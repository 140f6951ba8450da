// The components of a tokenizer.json around its model. Private to this folder.
#ifndef QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_COMPONENTS_H_
#define QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_COMPONENTS_H_

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

// Each appends the steps of `component` (an object with a "type", or null for none) to `steps`.
absl::Status ParseNormalizer(const nlohmann::json& component, std::vector<NormalizerStep>* steps);
absl::Status ParsePreTokenizer(const nlohmann::json& component,
                               std::vector<PreTokenizerStep>* steps);
absl::Status ParsePostProcessor(const nlohmann::json& component,
                                std::vector<PostProcessorStep>* steps);
absl::Status ParseDecoder(const nlohmann::json& component, std::vector<DecoderStep>* steps);

// The reverse: null, the single component, or a Sequence.
nlohmann::ordered_json NormalizerJson(const std::vector<NormalizerStep>& steps);
nlohmann::ordered_json PreTokenizerJson(const std::vector<PreTokenizerStep>& steps);
nlohmann::ordered_json PostProcessorJson(const std::vector<PostProcessorStep>& steps);
nlohmann::ordered_json DecoderJson(const std::vector<DecoderStep>& steps);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_TOKENIZER_JSON_COMPONENTS_H_
