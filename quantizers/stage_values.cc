#include "quantizers/stage_values.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace quantd {
namespace {

// The values of an MLP are wide; when they take more disk than this, they are computed again.
constexpr uint64_t kMostHiddenBytes = uint64_t{4} << 30;

// What Continue needs after a run up to `until`, as far as it costs more to compute than to read.
std::vector<BlockValue> KeptAfter(BlockValue until, uint64_t bytes) {
  switch (until) {
    case BlockValue::kAttended:
      return {BlockValue::kAttended};
    case BlockValue::kMlpInput:
      return {BlockValue::kAfterAttention};
    case BlockValue::kMlpHidden:
      if (bytes > kMostHiddenBytes) return {BlockValue::kAfterAttention};
      return {BlockValue::kAfterAttention, BlockValue::kMlpHidden};
    default:
      return {};
  }
}

const char* NameOf(BlockValue value) {
  if (value == BlockValue::kAttended) return "stage-attended";
  return value == BlockValue::kMlpHidden ? "stage-mlp-hidden" : "stage-after-attention";
}

bool Contains(const std::vector<BlockValue>& values, BlockValue value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

absl::Status StageValues::Read(int64_t sequence, BlockPass& pass) {
  pass.tokens = tokens_[static_cast<size_t>(sequence)];
  for (FloatBuffer& values : pass.values) values.clear();
  for (auto& [value, store] : kept_) {
    RETURN_IF_ERROR(store.Take(static_cast<size_t>(sequence), pass[value]));
  }
  if (kept_.contains(BlockValue::kAfterAttention)) return absl::OkStatus();
  return inputs_.Read(sequence, false, pass[BlockValue::kInput]);
}

void StageValues::Start(BlockValue until, int64_t width) {
  const int64_t tokens = std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0});
  needed_ = KeptAfter(until, static_cast<uint64_t>(tokens * width) * sizeof(float));
  for (const BlockValue value : needed_) {
    if (!kept_.contains(value)) {
      next_.try_emplace(value, sink_, NameOf(value), memory_bytes_);
    }
  }
}

absl::Status StageValues::Keep(int64_t sequence, BlockPass& pass) {
  for (auto& [value, store] : kept_) store.Return(static_cast<size_t>(sequence), pass[value]);
  for (auto& [value, store] : next_) RETURN_IF_ERROR(store.Append(std::move(pass[value])));
  return absl::OkStatus();
}

void StageValues::Finish() {
  std::erase_if(kept_, [this](const auto& entry) { return !Contains(needed_, entry.first); });
  kept_.merge(next_);
}

void StageValues::Clear() {
  needed_.clear();
  next_.clear();
  kept_.clear();
}

uint64_t StageValues::DiskBytes(uint64_t tokens, int64_t hidden_size, int64_t intermediate_size) {
  const uint64_t narrow = tokens * static_cast<uint64_t>(hidden_size) * sizeof(float);
  const uint64_t wide = tokens * static_cast<uint64_t>(intermediate_size) * sizeof(float);
  return narrow + (wide > kMostHiddenBytes ? narrow : std::max(narrow, wide));
}

}  // namespace quantd
