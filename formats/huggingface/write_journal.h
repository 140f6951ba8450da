// What an unfinished checkpoint holds already: one JSON line for the job, then one per complete
// group of tensors, with checksums, so that a killed job goes on where the disk really is.
#ifndef QUANTD_FORMATS_HUGGINGFACE_WRITE_JOURNAL_H_
#define QUANTD_FORMATS_HUGGINGFACE_WRITE_JOURNAL_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "formats/safetensors/safetensors.h"

namespace quantd {

struct JournalTensor {
  TensorInfo info;
  int shard = 0;          // counted from 0
  uint64_t checksum = 0;  // XXH3 of the bytes
};

struct JournalGroup {
  std::string name;
  std::vector<JournalTensor> tensors;
  std::string note;  // of the job's own; "" in journals of older versions
};

struct Journal {
  std::string fingerprint;  // of the job
  uint64_t max_shard_bytes = 0;
  uint64_t header_reserve = 0;
  std::vector<JournalGroup> groups;
};

uint64_t ChecksumOf(std::span<const std::byte> bytes);

// Lines as the journal file has them, each with its newline. INVALID_ARGUMENT for a name or
// note that is no UTF-8.
absl::StatusOr<std::string> JournalHead(const Journal& journal);
absl::StatusOr<std::string> JournalLine(const JournalGroup& group);

// DATA_LOSS when the first line is broken; groups end at the first broken line (a write that was
// cut).
absl::StatusOr<Journal> ParseJournal(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_WRITE_JOURNAL_H_
