// Puts special tokens around the ids of a text. Semantics: PyPI `tokenizers` 0.23, processors.
#ifndef QUANTD_MODELS_TOKENIZERS_POST_PROCESSOR_H_
#define QUANTD_MODELS_TOKENIZERS_POST_PROCESSOR_H_

#include <cstdint>
#include <vector>

#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

class PostProcessor {
 public:
  // Folds the steps: for one text they only add ids in front and behind.
  explicit PostProcessor(const std::vector<PostProcessorStep>& steps);

  const std::vector<int32_t>& front() const { return front_; }
  const std::vector<int32_t>& back() const { return back_; }

 private:
  std::vector<int32_t> front_, back_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_POST_PROCESSOR_H_
