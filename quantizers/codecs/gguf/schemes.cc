// GGUF block types as schemes of the quantization pipeline.
#include <algorithm>
#include <atomic>
#include <bit>
#include <map>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/codecs/gguf/block_tensor.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {
namespace gguf {

const BlockQuantizer* FindBlockQuantizer(GgmlType type) {
  for (const auto quantizers :
       {LegacyBlockQuantizers(), KQuantBlockQuantizers(), Iq4BlockQuantizers(),
        SimpleBlockQuantizers(), LatticeBlockQuantizers()}) {
    for (const BlockQuantizer& quantizer : quantizers) {
      if (quantizer.type == type) return &quantizer;
    }
  }
  return nullptr;
}

}  // namespace gguf

namespace {

using gguf::BlockFormat;
using gguf::BlockQuantizer;

constexpr int64_t kElementsPerTask = 32768;
// No product of an f16 scale, a scale code and a level reaches this. The searches would overflow
// beyond it and give codes without meaning.
constexpr float kLargestValue = 65504.0f * 128.0f * 32.0f;

bool HasLargerThan(float limit, std::span<const float> values) {
  const int32_t limit_bits = std::bit_cast<int32_t>(limit);
  int32_t largest = 0;  // magnitudes order as their bits do
  for (const float v : values) {
    largest = std::max(largest, std::bit_cast<int32_t>(v) & 0x7fffffff);
  }
  return largest > limit_bits;
}

class GgufScheme final : public Scheme {
 public:
  GgufScheme(const BlockFormat& format, const BlockQuantizer& quantizer)
      : format_(format), quantizer_(quantizer) {}

  std::string Describe() const override { return absl::StrCat("GGUF ", format_.name); }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    return gguf::RowsInBlocks(format_, {rows, cols}).status();
  }

  bool ConvertsItself() const override { return true; }  // into float32, exactly

  InputNeeds Needs() const override {
    using Use = BlockQuantizer::Importance;
    return {.importance = quantizer_.importance != Use::kIgnored,
            .optional = quantizer_.importance != Use::kRequired};
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    ASSIGN_OR_RETURN(const int64_t rows, gguf::RowsInBlocks(format_, weight.shape));
    const int64_t cols = weight.shape.back();
    ASSIGN_OR_RETURN(const float* importance, ImportanceOf(stats, cols));
    QuantizedTensor tensor = gguf::EmptyTensor(format_, rows, cols);
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / cols);
    std::atomic<int64_t> bad{-1};
    const auto quantize = [&](int64_t task) {
      thread_local std::vector<float> values;
      const int64_t first = task * rows_per_task;
      const int64_t count = std::min(rows_per_task, rows - first);
      values.resize(static_cast<size_t>(count * cols));
      LoadFloats(weight, first * cols, count * cols, values.data());
      const int64_t overflow =
          QuantizeRows({values.data(), importance, count, cols}, first, tensor);
      if (overflow >= 0) bad.store(first + overflow, std::memory_order_relaxed);
    };
    RETURN_IF_ERROR(ParallelForUnlessStopped((rows + rows_per_task - 1) / rows_per_task,
                                             StopOf(stats), quantize));
    if (bad >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", bad.load(), " has values too large for the scales of ", format_.name,
                       "; use BF16 or F32 for this tensor"));
    }
    return tensor;
  }

 private:
  // One number per column, or null when the type has no use for it.
  absl::StatusOr<const float*> ImportanceOf(const InputStats* stats, int64_t cols) const {
    using Use = BlockQuantizer::Importance;
    if (quantizer_.importance == Use::kIgnored) return nullptr;
    if (stats == nullptr || stats->importance.empty()) {
      if (quantizer_.importance != Use::kRequired) return nullptr;
      return absl::FailedPreconditionError(
          absl::StrCat(format_.name, " needs an importance matrix that covers this tensor"));
    }
    if (static_cast<int64_t>(stats->importance.size()) != cols) {
      return absl::InvalidArgumentError(
          absl::StrCat("found ", stats->importance.size(), " importances, expected ", cols));
    }
    return stats->importance.data();
  }

  // Fills the rows of `tensor` from `first` on. The index of a row that its scales cannot hold, or
  // -1.
  int64_t QuantizeRows(const gguf::Rows& rows, int64_t first, QuantizedTensor& tensor) const {
    for (int64_t r = 0; r < rows.count && format_.scale_dtype == DType::kF16; ++r) {
      if (HasLargerThan(kLargestValue, {rows.x + r * rows.cols, rows.x + (r + 1) * rows.cols})) {
        return r;
      }
    }
    NestedScales* nested = tensor.nested ? &*tensor.nested : nullptr;
    const int64_t per_row = rows.cols / format_.elements;
    const int64_t begin = first * per_row;
    quantizer_.quantize(rows, gguf::PartsAt<gguf::Parts>(format_, tensor, nested, begin));
    int64_t bad = -1;
    for (int64_t b = begin; b < begin + rows.count * per_row; ++b) {
      const gguf::Parts parts = gguf::PartsAt<gguf::Parts>(format_, tensor, nested, b);
      if (!gguf::HasFiniteScale(format_, parts)) bad = b / per_row - first;
      if (format_.nested) gguf::FillScales(format_, b, tensor);
    }
    return bad;
  }

  const BlockFormat& format_;
  const BlockQuantizer& quantizer_;
};

}  // namespace

absl::StatusOr<const Scheme*> SchemeForGgmlType(GgmlType type) {
  static const auto* const schemes = [] {
    auto* map = new std::map<GgmlType, const Scheme*>;
    for (uint32_t id = 0; id < 64; ++id) {
      const GgmlType candidate = static_cast<GgmlType>(id);
      const BlockFormat* format = gguf::FindBlockFormat(candidate);
      const BlockQuantizer* quantizer = gguf::FindBlockQuantizer(candidate);
      if (format == nullptr || quantizer == nullptr) continue;
      (*map)[candidate] = new GgufScheme(*format, *quantizer);
    }
    return map;
  }();
  const auto it = schemes->find(type);
  if (it != schemes->end()) return it->second;
  const BlockFormat* format = gguf::FindBlockFormat(type);
  return absl::UnimplementedError(
      absl::StrCat("there is no quantizer for the GGUF type ",
                   format != nullptr ? format->name : "with this number", " (",
                   static_cast<uint32_t>(type), ")"));
}

}  // namespace quantd
