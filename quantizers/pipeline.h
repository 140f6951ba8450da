// Quantize and dequantize whole checkpoints: reader -> policy -> scheme -> codec -> writer, one
// tensor at a time, into an output that appears whole or not at all.
#ifndef QUANTD_QUANTIZERS_PIPELINE_H_
#define QUANTD_QUANTIZERS_PIPELINE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "formats/model_root.h"
#include "quantizers/method.h"
#include "quantizers/model_source.h"

namespace quantd {

struct CalibrationData;  // calibration_data.h

struct QuantizeProgress {
  int64_t tensors_done = 0;
  int64_t tensors_total = 0;
  uint64_t bytes_done = 0;  // of the source
  uint64_t bytes_total = 0;
  std::string tensor;          // the one just finished
  double relative_error = -1;  // its |W - Q(W)| / |W| (Frobenius); -1 when it was kept as it is
  // Calibrated jobs.
  int64_t block = 0, blocks = 0;  // the block that is worked on, counted from 1, and how many
  double output_error = -1;       // of `tensor`, as in LayerReport
  double rounding_error = -1;
  double eta_seconds = -1;  // -1: by the bytes
};

struct LayerReport {
  std::string name;
  std::string scheme;  // Scheme::Describe(), or "kept (BF16)"
  int64_t rows = 0, cols = 0;
  // Of all that the output holds of it: codes, scales, codebooks, outliers, ...; not the bias.
  double bits_per_weight = 0;
  double relative_error = 0;
  // On inputs of the calibration set: |X (W - Q(W))^T| / |X W^T|, and the same for plain rounding
  // to the same grid; -1 where it was not measured.
  double output_error = -1;
  double rounding_error = -1;
};

struct QuantizeReport {
  std::string output_name;
  uint64_t source_bytes = 0;
  uint64_t output_bytes = 0;
  double bits_per_weight = 0;  // of the whole output
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;  // of the process during the job (VmHWM)
  double mean_relative_error = 0;  // over quantized matrices, weighted by elements
  // That ran the model's blocks, in the last run: "cpu", "opencl:0"; "" where none did.
  std::string calibration_device;
  std::vector<LayerReport> layers;
  std::vector<std::string> warnings;  // "source is already quantized (Q4_1)", ...
};

// Cancelled: stop within a second, leave nothing. Drain: stop after the tensor in hand and keep the
// partial output for a resume.
struct JobControl {
  std::atomic<bool> cancel{false};
  std::atomic<bool> drain{false};
  std::function<void(const QuantizeProgress&)> on_progress;  // called from the worker, cheap
};

struct OutputOptions {
  std::string name;  // CheckModelName; ".gguf" is appended for GGUF recipes when missing
  bool overwrite = false;
  uint64_t max_shard_bytes = uint64_t{5} << 30;
  bool resume = false;          // continue a partial output of the same job
  bool zero_nonfinite = false;  // NaN and infinite weights become 0 instead of INVALID_ARGUMENT
};

// `recipe` with the importance matrix in hand that its options name; without one, `recipe` itself.
// NOT_FOUND when there is no such file in the root, INVALID_ARGUMENT when it holds no matrix.
absl::StatusOr<std::shared_ptr<const Recipe>> ReadImportance(const ModelRoot& root,
                                                             std::shared_ptr<const Recipe> recipe);

// CANCELLED, or ABORTED with "drained" when stopped by control. Everything that can be refused is
// refused before the output exists.
// `calibration` is for recipes that are calibrated, which do not go without.
absl::StatusOr<QuantizeReport> QuantizeCheckpoint(std::shared_ptr<const ModelRoot> root,
                                                  absl::string_view model, const Recipe& recipe,
                                                  const OutputOptions& output, JobControl& control,
                                                  const CalibrationData* calibration = nullptr);

// A plain checkpoint of `dtype` that anything loads; a Hugging Face folder also from a GGUF.
absl::StatusOr<QuantizeReport> DequantizeCheckpoint(std::shared_ptr<const ModelRoot> root,
                                                    absl::string_view model, DType dtype,
                                                    const OutputOptions& output,
                                                    JobControl& control);

struct QuantizedMatrix {
  std::vector<NamedTensor> tensors;   // spelled as upstream spells one Linear
  std::string quantization_config;    // JSON text under which DequantizeMatrix reads them
  std::vector<std::string> warnings;  // of the solver
};

// One matrix, the on-the-fly door. `calibration`, [..., in] or null, are inputs of the linear;
// methods that measure nothing pass over them. INVALID_ARGUMENT when the method cannot do without
// and they are missing, have another width or are not finite. CANCELLED soon after `stopped`.
// A recipe with an importance matrix (ReadImportance) takes the entry of `name`, in GGUF's spelling
// or in that of a Hugging Face Llama; NOT_FOUND when there is none.
absl::StatusOr<QuantizedMatrix> QuantizeMatrix(const TensorView& weight,
                                               const TensorView* calibration, const Recipe& recipe,
                                               std::function<bool()> stopped = {},
                                               absl::string_view name = {});
// The reverse; `tensors` as QuantizeMatrix gives them, `quantization_config` names the codec.
// Without `dtype`: the one that upstream's dequantization returns.
absl::StatusOr<Tensor> DequantizeMatrix(const std::vector<NamedTensor>& tensors,
                                        const std::string& quantization_config,
                                        std::optional<DType> dtype);

// The middle of QuantizeCheckpoint for loading with on-the-fly quantization: the source with its
// matrices replaced by what `recipe` makes of them when they are read.
std::unique_ptr<ModelSource> QuantizeOnTheFly(std::unique_ptr<ModelSource> source,
                                              std::shared_ptr<const Recipe> recipe);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PIPELINE_H_
