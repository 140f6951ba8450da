// What a block solver keeps of every calibration sequence.
#ifndef QUANTD_QUANTIZERS_SEQUENCE_STORE_H_
#define QUANTD_QUANTIZERS_SEQUENCE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/float_buffer.h"
#include "core/status.h"
#include "formats/atomic_output.h"

namespace quantd {

class CheckpointSink;

// Values of the sequences, in their order: in memory up to a limit, those beyond it in a scratch
// file of the job, which goes with this.
class SequenceStore {
 public:
  static constexpr uint64_t kMemoryBytes = uint64_t{1} << 30;

  // All in memory.
  SequenceStore() : memory_bytes_(UINT64_MAX) {}
  // `sink` outlives this; `name` is of no other scratch file.
  SequenceStore(CheckpointSink& sink, std::string name, uint64_t memory_bytes = kMemoryBytes)
      : sink_(&sink), name_(std::move(name)), memory_bytes_(memory_bytes) {}
  ~SequenceStore() { Clear(); }
  SequenceStore(SequenceStore&&) = default;

  size_t size() const { return places_.size(); }
  void Clear();
  // The next sequence's values. Errors of writing are the disk's.
  absl::Status Append(FloatBuffer values);
  // `values` become the sequence's, and stay valid until Return gives them back unchanged.
  absl::Status Take(size_t sequence, FloatBuffer& values);
  void Return(size_t sequence, FloatBuffer& values);

 private:
  struct Place {
    FloatBuffer values;    // or
    uint64_t offset = 0;   // of the file
    uint64_t in_file = 0;  // floats there
  };

  CheckpointSink* sink_ = nullptr;
  std::string name_;
  uint64_t memory_bytes_;
  uint64_t held_bytes_ = 0;
  std::unique_ptr<OutputFile> file_;
  std::vector<Place> places_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SEQUENCE_STORE_H_
