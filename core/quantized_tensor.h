// The waist of the hourglass: what a quantized weight means, whoever wrote it.
//
//   w[r][c] = (value(code[r][c]) - zero_point[b]) * scale[b] * post_scale + offset[b]
//                                                                       b = block of (r, c)
//   w[r][c] = w[r][c] * column_scale[c] + column_offset[c]
//
// with every operation in float32 and in that order, then rounded to `dequantized_dtype` (with
// `rounds_each_step` after every operation); plus an input transform and sparse outliers that
// belong to the multiplication. Methods produce it, codecs spell it on disk, kernels pack it; none
// of the three knows the others.
#ifndef QUANTD_CORE_QUANTIZED_TENSOR_H_
#define QUANTD_CORE_QUANTIZED_TENSOR_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/input_rounding.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// Which number a code stands for.
struct Grid {
  enum class Kind {
    kUniform,   // value = code + first; `first` is 0 or negative (-8 for signed 4-bit, -128 for
                // int8)
    kTable,     // value = table[code]: NF4, FP4, E2M1, IQ4_NL, fp8 (256 entries), ...
    kCodebook,  // code selects a vector of neighbours in each of `codebooks` (summed)
  };
  Kind kind = Kind::kUniform;
  int bits = 8;   // width of a code, 1..16
  int first = 0;  // kUniform
  // kTable: 2^bits values. kCodebook: all codebooks, each [2^bits, vector_rows, vector_length].
  std::vector<float> table;
  int vector_length = 1;  // kCodebook: along the columns
  int vector_rows = 1;    // kCodebook: along the rows; rows beyond the matrix are padding
  int codebooks = 1;      // kCodebook
  int residual_bits = 0;  // kCodebook: width of the codes of all codebooks but the first; 0: `bits`
  // The table is exactly float8_e4m3fn, in code order. Lets kernels pick the fp8 layout.
  bool is_e4m3 = false;

  int bits_of(int codebook) const {
    return codebook > 0 && residual_bits > 0 ? residual_bits : bits;
  }
  int64_t vector_size() const { return int64_t{vector_rows} * vector_length; }
  // Entries that `table` must have for every code to stand for something.
  int64_t table_size() const;
  // Codes that a matrix takes.
  int64_t code_count(int64_t rows, int64_t cols) const;
};

Grid UniformGrid(int bits, bool is_signed);
Grid TableGrid(int bits, std::vector<float> table);
Grid E4M3Grid();

// Which elements share a scale: tiles of rows x cols, or runs of `cols` elements of the flattened
// matrix that may cross row ends (bitsandbytes). 0 stands for the whole dimension.
struct BlockShape {
  int64_t rows = 1;
  int64_t cols = 0;
  bool flat = false;
  // With `flat`: elements are dealt to `cols` blocks in turn, so that element i of the flattened
  // matrix is in block i % cols (HQQ's axis 0).
  bool strided = false;
};

// Groups of `size` elements of a matrix [rows, cols], which `size` divides. Axis 1: neighbours of
// the flattened matrix, as tiles where no group crosses a row's end. Axis 0: strided.
BlockShape GroupBlocks(int64_t rows, int64_t cols, int64_t size, int axis);

// How block scales are themselves stored when they are quantized (K-quants, bitsandbytes double
// quantization, NVFP4). The effective float values in QuantizedTensor are always filled from it; it
// is kept so that the same bytes can be written again.
struct NestedScales {
  std::vector<uint8_t> scale_codes;   // one per block
  std::vector<uint8_t> offset_codes;  // one per block, or empty
  int64_t super_size = 1;             // blocks that share one super scale, in block order
  std::vector<float> super_scale;     // values as stored, widened
  std::vector<float> super_offset;    // values as stored, widened, or empty
  std::vector<float> code_table;      // value of a scale code when it is not the code itself
  float shift = 0;                    // added to every decoded scale
  // SpQR: a super block is `super_rows` blocks below each other (super_size is 1), the effective
  // scale is super_scale * (scale code - scale_zero) and the effective zero point is super_offset *
  // (offset code - offset_zero).
  int64_t super_rows = 1;
  std::vector<float> scale_zero;   // values as stored, widened, or empty
  std::vector<float> offset_zero;  // values as stored, widened, or empty
};

// Bits of a multiplication that are not the stored matrix; applied by Linear around the kernel.
struct InputTransform {
  std::vector<int32_t>
      permutation;  // column c of the codes multiplies input permutation[c]; or empty
  std::vector<float> channel_scale;  // inputs are divided by it; or empty
  int hadamard_size = 0;             // block size of a normalized Hadamard rotation; 0 = none
  // [hadamard_size, hadamard_size], what runs of inputs x are multiplied by (x rotation) in place
  // of the normalized Hadamard matrix; or empty.
  std::vector<float> rotation;
  std::vector<float> norm_weight;  // an RMS norm of the inputs, [cols]; or empty
  float norm_epsilon = 0;          // of that norm
  bool int8_tokens = false;        // last, every token is rounded to 127ths of its absmax
  // What the checkpoint asks for besides, after `rotation` and before the rest; applied where a
  // model is loaded with its activations quantized, else inputs stay as they are.
  InputRounding rounding;
};

// Values added to the dequantized matrix, in CSR form; the sum is rounded to `dequantized_dtype`.
struct Outliers {
  std::vector<int64_t> row_begin;  // rows + 1 entries, or empty
  std::vector<int32_t> column;     // in the inputs' order
  std::vector<float> value;
};

// Columns whose codes stand for vectors of codebooks of their own.
struct ColumnRun {
  int64_t cols = 0;
  Grid grid;                         // kCodebook
  std::vector<uint16_t> wide_codes;  // as those of a matrix of these columns
};

struct QuantizedTensor {
  int64_t rows = 0;                       // out features
  int64_t cols = 0;                       // in features
  DType dequantized_dtype = DType::kF32;  // type that upstream's dequantization returns

  Grid grid;
  // One entry per element, row-major, also for 4-bit grids: packing is the codec's and the kernel's
  // affair. kCodebook: [rows/vector_rows, cols/vector_length, codebooks], in `wide_codes` when they
  // have more than 8 bits.
  std::vector<uint8_t> codes;
  std::vector<uint16_t> wide_codes;
  // The first columns (in the codes' order), run by run, where they have grids of their own; `grid`
  // and the codes above hold the others. VPTQ: outlier columns and groups.
  std::vector<ColumnRun> leading;

  BlockShape block;
  DType scale_dtype = DType::kF32;   // as stored
  std::vector<float> scale;          // one per block, block rows outermost
  float post_scale = 1;              // one more factor for the whole matrix (LLM.int8: 1/127)
  std::vector<float> zero_point;     // per block in grid values, or empty for 0
  std::vector<float> offset;         // per block, or empty for 0
  std::vector<float> column_scale;   // [cols] in the inputs' order, or empty for 1
  std::vector<float> column_offset;  // [cols] in the inputs' order, or empty for 0
  // Upstream computes in `dequantized_dtype`: difference, product and sum are each rounded to it.
  bool rounds_each_step = false;
  // Upstream returns the dtype that the model is loaded in, of which `dequantized_dtype` is only
  // the usual one: loaded as float32, it rounds nothing.
  bool follows_loaded_dtype = false;
  std::optional<NestedScales> nested;

  InputTransform input;
  Outliers outliers;
  float bias_scale = 1;  // the module's bias is multiplied by it (BitNet's AutoBitLinear)
  // The matrix as stored, where upstream keeps it in floats and quantizes it whenever it is used
  // (BitNet's online mode).
  std::optional<Tensor> unquantized;

  // Facts without numeric meaning that the codec needs to spell the same file again, for example
  // "storage_dtype" or "packing". Keys are the codec's own.
  std::map<std::string, std::string> attributes;

  int64_t block_count() const;
  int64_t block_columns() const;  // blocks side by side in one row of tiles (1 for flat blocks)
  int64_t block_of(int64_t row, int64_t col) const;
  int64_t leading_columns() const;  // of all runs in `leading`
};

// Sizes, code ranges and indexes agree. INVALID_ARGUMENT names the first thing that does not.
absl::Status Validate(const QuantizedTensor& tensor);

// The truth that kernels and codecs are tested against, in the columns' original order
// (permutation undone, channel scale and rotation not applied, outliers added): [rows, cols]
// float32, each value rounded to `dequantized_dtype`.
std::vector<float> Dequantize(const QuantizedTensor& tensor);

// Rows [first, first + count) only, into `out` [count, cols].
void DequantizeRows(const QuantizedTensor& tensor, int64_t first, int64_t count, float* out);

// The same rows of the matrix that multiplies inputs as they are: rotation and channel scales are
// applied to the weight, in float32.
void PlainRows(const QuantizedTensor& tensor, int64_t first, int64_t count, float* out);

// A copy with rows reordered: row i of the result is row order[i]. Blocks must not span rows.
absl::StatusOr<QuantizedTensor> ReorderRows(const QuantizedTensor& tensor,
                                            const std::vector<int64_t>& order);

}  // namespace quantd

#endif  // QUANTD_CORE_QUANTIZED_TENSOR_H_
