// What a block has computed of every sequence up to the stage it is at, so that a stage goes on
// from the one before it instead of from the block's inputs.
#ifndef QUANTD_QUANTIZERS_STAGE_VALUES_H_
#define QUANTD_QUANTIZERS_STAGE_VALUES_H_

#include <map>
#include <memory>
#include <vector>

#include "quantizers/activations.h"
#include "quantizers/calibrated_block.h"
#include "quantizers/checkpoint_sink.h"

namespace quantd {

// Scratch files of the job, at most two at a time. Good as long as the parameters that a stage's
// values were computed with stay as they are: for linears that are quantized in the order of the
// computation.
class StageValues {
 public:
  StageValues(CheckpointSink& sink, const BlockActivations& inputs, std::vector<int64_t> tokens)
      : sink_(sink), inputs_(inputs), tokens_(std::move(tokens)) {}

  // Makes `pass` one to go on with: what is kept of the sequence, or its inputs. Its memory is used
  // again.
  absl::Status Read(int64_t sequence, BlockPass& pass) const;

  // Keeps what a later stage goes on from, of passes up to `until`, whose rows are `width` wide:
  // one Append for every sequence in order, then Finish, which removes what nobody needs any more.
  absl::Status Start(BlockValue until, int64_t width);
  absl::Status Append(const BlockPass& pass);
  absl::Status Finish();

  // Removes the files; passes start from the inputs again.
  absl::Status Clear();

  // The most that the files take at a time.
  static uint64_t DiskBytes(uint64_t tokens, int64_t hidden_size, int64_t intermediate_size);

 private:
  struct Writing {
    ActivationWriter file;
    int64_t width = 0;
  };

  CheckpointSink& sink_;
  const BlockActivations& inputs_;
  const std::vector<int64_t> tokens_;
  std::vector<BlockValue> needed_;
  std::map<BlockValue, Writing> writing_;
  std::map<BlockValue, std::unique_ptr<ActivationFile>> kept_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_STAGE_VALUES_H_
