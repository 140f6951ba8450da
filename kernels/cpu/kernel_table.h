// One instruction set's kernels as a table of functions; everything above it is portable.
#ifndef QUANTD_KERNELS_CPU_KERNEL_TABLE_H_
#define QUANTD_KERNELS_CPU_KERNEL_TABLE_H_

#include <string>
#include <vector>

#include "core/status.h"
#include "kernels/backend.h"
#include "kernels/cpu/panel.h"

namespace quantd::cpu {

// What RowNormalize needs of a Norm, as plain pointers.
struct RowNorm {
  Norm::Kind kind = Norm::Kind::kNone;
  const float* weight = nullptr;  // or null for 1
  const float* bias = nullptr;    // or null for 0
  float epsilon = 0;
};

// Queries of one KV head against a run of keys. Keys lie in blocks of 16, [block][head_dim][16],
// values in rows [key][value_stride]; both float32 or f16.
struct AttentionTile {
  bool half = false;
  int queries = 0;
  int head_dim = 0;
  int value_stride = 0;   // head_dim rounded up to 16
  int64_t first_key = 0;  // a multiple of 16
  int64_t end_key = 0;
  const void* keys = nullptr;  // of the whole sequence
  const void* values = nullptr;
  const float* q = nullptr;         // [queries][head_dim], scaled
  const int64_t* limits = nullptr;  // query i sees keys below limits[i]
  // Running state of the online softmax, updated: maximum, 16 partial sums, weighted sum of values.
  float* maximum = nullptr;  // [queries], -inf at the start
  float* sums = nullptr;     // [queries][16]
  float* out = nullptr;      // [queries][value_stride]
  float* scratch = nullptr;  // [queries][kAttentionKeys]
};
constexpr int kAttentionKeys = 128;    // keys scored before their values are added
constexpr int kAttentionQueries = 48;  // most queries in a tile

struct KernelTable {
  const char* name;             // as in QUANTD_ISA
  std::string (*extensions)();  // optional instructions in use, for people
  bool (*supported)();

  int int_tokens;    // widest tile of int_tile
  int dense_tokens;  // widest tile of float_tile for kF32, kF16, kBf16
  int code_tokens;   // widest tile of float_tile for kLut4, kFp8
  XFormat bf16_format, fp8_format;

  void (*int_tile)(const IntTile&);
  void (*float_tile)(const FloatTile&);
  void (*attention_tile)(const AttentionTile&);

  // y = norm(x); y may be x.
  void (*normalize)(const float* x, int64_t n, const RowNorm& norm, float* y);
  // Runs of `size` values, a power of two that divides n, times the normalized Hadamard matrix.
  void (*rotate)(float* x, int64_t n, int64_t size);
  // q = round(x / scale) with scale = max|x| / kInt16Most per block of `block` columns (16, 32 or
  // 64, which divides n), as [n / 4][2 terms][4]; and the sums of q per block. A block that is not
  // finite gets the scale NaN.
  void (*quantize)(const float* x, int64_t n, int block, int8_t* q, float* scale, int32_t* sum);
  // x = first + second to 16 bits.
  void (*split_bf16)(const float* x, int64_t n, uint16_t* first, uint16_t* second);
  void (*to_f16)(const float* x, int64_t n, uint16_t* y);
  // In place. Not kSiluMul.
  void (*activate)(Activation activation, float* x, int64_t n);
  // gate = silu(gate) * up
  void (*silu_mul)(float* gate, const float* up, int64_t n);
};

// Best first.
std::vector<const KernelTable*> AllKernelTables();
std::vector<const KernelTable*> SupportedKernelTables();
// The best supported table, or the one that QUANTD_ISA names.
absl::StatusOr<const KernelTable*> SelectKernelTable();

namespace scalar {
const KernelTable& Table();
}
namespace avx2 {
const KernelTable& Table();
}
namespace avx512 {
const KernelTable& Table();
}

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_KERNEL_TABLE_H_
