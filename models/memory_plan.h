// How large a model's parts are and what fits, from shapes alone.
#ifndef QUANTD_MODELS_MEMORY_PLAN_H_
#define QUANTD_MODELS_MEMORY_PLAN_H_

#include <cstdint>

#include "core/status.h"
#include "models/model.h"
#include "quantizers/model_source.h"

namespace quantd {

// Sizes that a load settles before anything is read.
struct LoadPlan {
  int32_t context_length = 0;
  int32_t max_batch_tokens = 0;
  int32_t max_logit_rows = 0;
  ModelMemory estimate;  // kv_bytes: one sequence of context_length
};

// INVALID_ARGUMENT for options out of range or a context longer than the model's, naming both.
absl::StatusOr<LoadPlan> PlanLoad(const ModelSource& source, const LoadOptions& options);

// RESOURCE_EXHAUSTED with figures when weights, workspace and one short sequence exceed
// `limit_bytes` (0: no limit).
absl::Status CheckFitsMemory(const ModelMemory& memory, uint64_t limit_bytes);

}  // namespace quantd

#endif  // QUANTD_MODELS_MEMORY_PLAN_H_
