// Whether the tensors of a GGUF are those that its metadata promise.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_TENSOR_CHECKS_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_TENSOR_CHECKS_H_

#include <map>
#include <string>

#include "formats/gguf/gguf.h"
#include "formats/model_config.h"

namespace quantd::gguf {

using TensorIndex = std::map<std::string, const GgufTensorInfo*>;
TensorIndex IndexTensors(const GgufHeader& header);

// Every tensor that `config` needs is there with the right shape and a type that can hold weights,
// and no layer lies past the last. INVALID_ARGUMENT names the tensor, found and expected.
absl::Status CheckTensors(const TensorIndex& tensors, const ModelConfig& config);

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_TENSOR_CHECKS_H_
