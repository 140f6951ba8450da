// What a block has computed of every sequence up to the stage it is at, so that a stage goes on
// from the one before it instead of from the block's inputs.
#ifndef QUANTD_QUANTIZERS_STAGE_VALUES_H_
#define QUANTD_QUANTIZERS_STAGE_VALUES_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "quantizers/activations.h"
#include "quantizers/calibrated_block.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/sequence_store.h"

namespace quantd {

// At most two values of every sequence at a time, in memory up to a limit, beyond it in scratch
// files of the job. Good as long as the parameters that a stage's values were computed with stay as
// they are: for linears that are quantized in the order of the computation.
class StageValues {
 public:
  StageValues(CheckpointSink& sink, const BlockActivations& inputs, std::vector<int64_t> tokens,
              uint64_t memory_bytes = SequenceStore::kMemoryBytes / 2)
      : sink_(sink), inputs_(inputs), tokens_(std::move(tokens)), memory_bytes_(memory_bytes) {}

  // Makes `pass` one to go on with: what is kept of the sequence, lent until Keep, or its inputs.
  absl::Status Read(int64_t sequence, BlockPass& pass);

  // Before passes up to `until`, whose rows are `width` wide: what a later stage goes on from is to
  // be kept. One Read and one Keep for every sequence in order, then Finish, which forgets what
  // nobody needs any more.
  void Start(BlockValue until, int64_t width);
  // Takes values out of `pass`.
  absl::Status Keep(int64_t sequence, BlockPass& pass);
  void Finish();

  // Passes start from the inputs again.
  void Clear();

  // The most that the files take at a time.
  static uint64_t DiskBytes(uint64_t tokens, int64_t hidden_size, int64_t intermediate_size);

 private:
  CheckpointSink& sink_;
  const BlockActivations& inputs_;
  const std::vector<int64_t> tokens_;
  const uint64_t memory_bytes_;  // of each value
  std::vector<BlockValue> needed_;
  std::map<BlockValue, SequenceStore> kept_, next_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_STAGE_VALUES_H_
