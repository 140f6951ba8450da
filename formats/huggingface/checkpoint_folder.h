// A Hugging Face checkpoint folder: config.json, safetensors (single or sharded by an index) and
// the small files that travel with it.
#ifndef QUANTD_FORMATS_HUGGINGFACE_CHECKPOINT_FOLDER_H_
#define QUANTD_FORMATS_HUGGINGFACE_CHECKPOINT_FOLDER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/shared_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "formats/atomic_output.h"
#include "formats/model_config.h"
#include "formats/model_root.h"
#include "formats/safetensors/safetensors.h"

namespace quantd {

// One namespace of tensors over all shards. Reads model.safetensors, or the shards that
// model.safetensors.index.json names (plain file names directly in the folder), or AutoGPTQ's
// gptq_model-4bit-128g.safetensors or its index; other files are not touched. INVALID_ARGUMENT for
// a config, index, shard or tensor that is missing or broken; tensors that the index leaves out are
// not there.
class CheckpointFolder {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointFolder>> Open(
      std::shared_ptr<const Directory> folder);
  virtual ~CheckpointFolder() = default;

  virtual const std::string& config_json() const = 0;  // text of config.json
  // tokenizer.json, tokenizer_config.json, special_tokens_map.json, vocab.txt, vocab.json,
  // merges.txt, added_tokens.json, chat_template.jinja, generation_config.json, modules.json,
  // sentence_bert_config.json, config_sentence_transformers.json and 1_Pooling/config.json, those
  // that are there: relative name to content.
  virtual absl::StatusOr<std::map<std::string, std::string>> ReadSideFiles() const = 0;

  virtual const std::vector<std::string>& names() const = 0;  // in file order, shard by shard
  virtual const TensorInfo* Find(absl::string_view name) const = 0;
  // The text under `key` in the __metadata__ of the shards, "" when there is none; the last shard
  // that has it wins.
  virtual std::string Metadata(absl::string_view key) const = 0;
  virtual absl::StatusOr<Tensor> Read(absl::string_view name) const = 0;
  // The tensor where it lies in its mapped shard.
  virtual absl::StatusOr<SharedTensor> Lend(absl::string_view name) const = 0;
  virtual uint64_t stored_bytes() const = 0;  // of all tensors
};

// The checkpoint's config.json with what generation_config.json and the sentence-transformers files
// add.
absl::StatusOr<ModelConfig> ReadModelConfig(const CheckpointFolder& folder);

// Streams a checkpoint into an AtomicOutput, with a journal so that an interrupted job can go on.
class CheckpointFolderWriter {
 public:
  struct Options {
    uint64_t max_shard_bytes = uint64_t{5} << 30;
    uint64_t header_reserve = 1 << 16;  // upper bound of one shard's header
    std::string fingerprint;            // of the job; a resume with another is FAILED_PRECONDITION
    bool resume = false;  // the output was created with keep_partial; nothing there: starts anew
    std::map<std::string, std::string> metadata = {};  // of every shard, besides "format": "pt"
    bool always_index = false;                         // also where there is one shard only
  };
  static absl::StatusOr<std::unique_ptr<CheckpointFolderWriter>> Create(
      std::unique_ptr<AtomicOutput> output, const Options& options);
  virtual ~CheckpointFolderWriter() = default;

  // Tensors are journalled in groups (everything of one source parameter). True when an earlier run
  // completed the group; its bytes were read back and agree with the journal's checksums. Groups
  // must come in the same order in every run, so that the files do not depend on interruptions.
  virtual bool IsComplete(absl::string_view group) const = 0;
  virtual absl::Status Add(absl::string_view name, const TensorView& tensor) = 0;
  // `note`, in UTF-8, stays in the journal beside the group.
  virtual absl::Status CompleteGroup(absl::string_view group, absl::string_view note = {}) = 0;
  // The note of a group that an earlier run completed, "" when it left none; nullopt for others.
  virtual std::optional<std::string> EarlierNote(absl::string_view group) const = 0;

  // Shapes of all tensors that are there so far, by name.
  virtual std::map<std::string, Shape> stored() const = 0;

  virtual absl::Status WriteSideFile(absl::string_view relative_name,
                                     absl::string_view content) = 0;
  // Names the shards, writes index and config.json, removes the journal and commits. Returns the
  // bytes of the finished folder.
  virtual absl::StatusOr<uint64_t> Finish(const std::string& config_json) = 0;
  // Where it writes: for files of the job's own, removed before Finish. Names of shards, side files
  // and the journal are taken.
  virtual AtomicOutput& output() = 0;
  // Syncs the journal and leaves the partial output for a resume.
  virtual absl::Status Suspend() = 0;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_CHECKPOINT_FOLDER_H_
