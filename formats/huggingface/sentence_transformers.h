// How a sentence-transformers folder turns hidden states into one vector: modules.json and
// 1_Pooling/config.json.
#ifndef QUANTD_FORMATS_HUGGINGFACE_SENTENCE_TRANSFORMERS_H_
#define QUANTD_FORMATS_HUGGINGFACE_SENTENCE_TRANSFORMERS_H_

#include <map>
#include <string>

#include "core/status.h"
#include "formats/model_config.h"

namespace quantd {

// Sets pooling and normalize_embedding from the side files of a checkpoint (relative name to
// content); without modules.json they stay as they are. UNIMPLEMENTED for a pooling mode or module
// that we do not compute (Dense, weighted mean, ...), INVALID_ARGUMENT for broken files.
absl::Status ApplySentenceTransformers(const std::map<std::string, std::string>& side_files,
                                       ModelConfig* config);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_SENTENCE_TRANSFORMERS_H_
