// Importance matrices: how strongly each input of a model's matrices is used, summed over a
// calibration text. Both files of llama-imatrix are read and written: GGUF (tensors
// "NAME.in_sum2" and "NAME.counts") and the older .dat. Source: tools/imatrix and
// common/imatrix-loader.cpp of llama.cpp (ggml 0.25.3).
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_IMPORTANCE_MATRIX_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_IMPORTANCE_MATRIX_H_

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "formats/atomic_output.h"
#include "formats/model_root.h"

namespace quantd {

class ImportanceMatrix {
 public:
  // Squared inputs summed over `count` > 0 positions, one finite sum >= 0 per column.
  void Add(std::string gguf_name, std::vector<float> sums, int64_t count);

  // Mean of the squared inputs of tensor `gguf_name` ("blk.0.attn_q.weight"), one per column; empty
  // when there is none.
  std::span<const float> Find(absl::string_view gguf_name) const;

  struct Entry {
    std::vector<float> sums;   // of squares, one per column
    std::vector<float> means;  // sums / count
    int64_t count = 0;         // positions
  };
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  std::vector<std::string> datasets;  // names of the calibration texts
  int64_t chunks = 0;                 // pieces of the text, each a context of its own
  int64_t chunk_size = 0;             // positions per piece; 0 when the file does not say

 private:
  std::map<std::string, Entry, std::less<>> entries_;
};

// INVALID_ARGUMENT naming what is wrong: a file that is neither, ends early, or holds numbers that
// cannot be means of squares.
absl::StatusOr<ImportanceMatrix> ReadImportanceMatrix(std::shared_ptr<const File> file);
absl::StatusOr<ImportanceMatrix> ParseLegacyImportanceMatrix(absl::string_view bytes);  // .dat

// As GGUF when the file's name ends in .gguf, else as .dat.
absl::Status WriteImportanceMatrix(const ImportanceMatrix& matrix,
                                   std::unique_ptr<OutputFile> file);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_IMPORTANCE_MATRIX_H_
