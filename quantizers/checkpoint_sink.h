// Where the pipeline puts its results: a Hugging Face folder or a GGUF file. Both appear whole or
// not at all and can be resumed at the last complete parameter.
#ifndef QUANTD_QUANTIZERS_CHECKPOINT_SINK_H_
#define QUANTD_QUANTIZERS_CHECKPOINT_SINK_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/shared_tensor.h"
#include "core/status.h"
#include "quantizers/method.h"
#include "quantizers/model_source.h"
#include "quantizers/pipeline.h"

namespace quantd {

// One source parameter and what becomes of it.
struct PlannedParameter {
  SourceParameter source;
  const Scheme* scheme = nullptr;  // null: kept as a plain tensor
  DType kept_dtype = DType::kF32;  // of a kept parameter, and what a matrix is converted to before
                                   // its scheme sees it
  InputStats inputs = {};          // owned by the recipe
  int layer = -1;                  // the block that it is part of, -1 outside
  // GGUF only.
  std::string gguf_name = {};
  GgmlType gguf_type = GgmlType::kF32;
};

// Everything a job does, fixed before the output exists.
struct JobPlan {
  std::vector<PlannedParameter> parameters;  // in the order they are written
  std::string fingerprint;                   // of source, recipe and output options
  std::string config_json;                   // folders
  std::string quantization_config;           // in config_json; "" for none
  ModelConfig output;                        // folders: what config_json says
  SideFiles side_files;                      // folders
  GgufMetadata metadata;                     // GGUF
  // GGUF: tensors of what divides rotary frequencies, by name, before all others.
  std::vector<std::pair<std::string, std::vector<float>>> rope_divisors;
  const Codec* codec = nullptr;  // folders; null when nothing is quantized
  uint64_t scratch_bytes = 0;    // disk that the job needs for itself
};

class CheckpointSink {
 public:
  virtual ~CheckpointSink() = default;
  // By an earlier run.
  virtual bool IsComplete(const PlannedParameter& parameter) const = 0;
  // The tensors that a quantized matrix is stored as, all that the output will hold of it.
  virtual absl::StatusOr<std::vector<NamedTensor>> Encode(const PlannedParameter& parameter,
                                                          const QuantizedTensor& weight) const = 0;
  // `note`, one line of printable ASCII, is kept beside the parameter's entry in the journal.
  // It may be written later, on another thread, and the source must still be there then; errors
  // come with a later call, of Finish at the latest.
  virtual absl::Status WritePlain(const PlannedParameter& parameter, SharedTensor tensor,
                                  absl::string_view note) = 0;
  // `stored`: as Encode gave them.
  virtual absl::Status WriteEncoded(const PlannedParameter& parameter,
                                    std::vector<NamedTensor> stored, absl::string_view note) = 0;
  // The note of a parameter that an earlier run wrote, "" when it left none; nullopt for others.
  virtual std::optional<std::string> EarlierNote(const PlannedParameter& parameter) const = 0;
  // Bytes of the finished output.
  virtual absl::StatusOr<uint64_t> Finish() = 0;
  // A file of the job's own beside the output, made anew; NOT_FOUND or the file for reading; its
  // removal. UNIMPLEMENTED where there is no place for it. To be gone before Finish.
  virtual absl::StatusOr<std::unique_ptr<OutputFile>> CreateScratch(absl::string_view name);
  virtual absl::StatusOr<std::shared_ptr<const File>> OpenScratch(absl::string_view name) const;
  virtual absl::Status RemoveScratch(absl::string_view name);
  // Scratch files that are there.
  virtual std::vector<std::string> ScratchFiles() const { return {}; }
  // Leaves what is there for a resume.
  virtual absl::Status Suspend() = 0;
};

// Bytes that may wait to be written: as much as the largest tensor of the source.
uint64_t WriteLimit(const JobPlan& plan);

absl::StatusOr<std::unique_ptr<CheckpointSink>> CreateFolderSink(
    std::shared_ptr<const ModelRoot> root, const JobPlan& plan, const OutputOptions& options);
absl::StatusOr<std::unique_ptr<CheckpointSink>> CreateGgufSink(
    std::shared_ptr<const ModelRoot> root, const JobPlan& plan, const OutputOptions& options);

// Plans; they refuse everything that can be refused before an output exists.
absl::StatusOr<JobPlan> PlanFolderJob(const ModelSource& source, const Recipe* recipe,
                                      std::optional<DType> dtype);
absl::StatusOr<JobPlan> PlanGgufJob(const ModelSource& source, const Recipe& recipe,
                                    absl::string_view model_name);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CHECKPOINT_SINK_H_
