// The hidden states that enter a block, on disk beside the output: the page cache keeps what fits
// in memory, and a resume finds them.
#ifndef QUANTD_QUANTIZERS_ACTIVATIONS_H_
#define QUANTD_QUANTIZERS_ACTIVATIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "quantizers/calibrated_block.h"
#include "quantizers/checkpoint_sink.h"

namespace quantd {

// Writes the hidden states of all sequences in order, then a checksum that seals them.
class ActivationWriter {
 public:
  static absl::StatusOr<ActivationWriter> Create(CheckpointSink& sink, const std::string& name);
  absl::Status Append(std::span<const float> values);  // the next sequence
  absl::Status Seal();

 private:
  explicit ActivationWriter(std::unique_ptr<OutputFile> file) : file_(std::move(file)) {}

  std::unique_ptr<OutputFile> file_;
  uint64_t checksum_ = 0;
};

class ActivationFile {
 public:
  // A sealed one, with the tokens of each sequence; NOT_FOUND when its size or checksum is not what
  // such a file would have.
  static absl::StatusOr<std::unique_ptr<ActivationFile>> Open(CheckpointSink& sink,
                                                              const std::string& name,
                                                              std::vector<int64_t> tokens,
                                                              int64_t width);

  // One that this job has just sealed: not read through first.
  static absl::StatusOr<std::unique_ptr<ActivationFile>> OpenOwn(CheckpointSink& sink,
                                                                 const std::string& name,
                                                                 std::vector<int64_t> tokens,
                                                                 int64_t width);

  absl::StatusOr<FloatBuffer> Read(int64_t sequence) const;
  absl::Status Read(int64_t sequence, FloatBuffer& values) const;
  const std::vector<int64_t>& tokens() const { return tokens_; }

 private:
  ActivationFile(std::shared_ptr<const File> file, std::vector<int64_t> tokens, int64_t width);

  std::shared_ptr<const File> file_;
  const std::vector<int64_t> tokens_;
  std::vector<uint64_t> begin_;  // byte offsets of the sequences, and the end
};

// What enters one block, by way of the quantized blocks before it and of the original ones, and
// what the block made of it before it was quantized.
class BlockActivations final : public BlockInputs {
 public:
  BlockActivations(CheckpointSink& sink, std::unique_ptr<ActivationFile> inputs,
                   std::unique_ptr<ActivationFile> original)
      : sink_(sink), inputs_(std::move(inputs)), original_(std::move(original)) {}
  int64_t sequences() const override { return static_cast<int64_t>(inputs_->tokens().size()); }
  int64_t tokens(int64_t sequence) const override {
    return inputs_->tokens()[static_cast<size_t>(sequence)];
  }
  absl::StatusOr<FloatBuffer> Read(int64_t sequence, bool original) const override {
    return (original && original_ != nullptr ? original_ : inputs_)->Read(sequence);
  }
  absl::Status Read(int64_t sequence, bool original, FloatBuffer& values) const {
    return (original && original_ != nullptr ? original_ : inputs_)->Read(sequence, values);
  }
  SequenceStore Store(const std::string& name, uint64_t memory_bytes) const override {
    return SequenceStore(sink_, name, memory_bytes);
  }
  bool has_targets() const override { return targets_ != nullptr; }
  // FAILED_PRECONDITION before SetTargets.
  absl::StatusOr<FloatBuffer> ReadTarget(int64_t sequence) const override {
    if (targets_ == nullptr) return absl::FailedPreconditionError("the block has no targets");
    return targets_->Read(sequence);
  }
  void SetTargets(std::unique_ptr<ActivationFile> targets) { targets_ = std::move(targets); }

 private:
  CheckpointSink& sink_;
  std::unique_ptr<ActivationFile> inputs_, original_, targets_;
};

// The calibration set as a file of the job: written whole, or as good as absent.
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokens(CheckpointSink& sink,
                                                             const std::string& name);
absl::Status WriteTokens(CheckpointSink& sink, const std::string& name,
                         const std::vector<std::vector<int32_t>>& sequences);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_ACTIVATIONS_H_
