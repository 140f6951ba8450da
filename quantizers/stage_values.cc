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

const char* FileOf(BlockValue value) {
  if (value == BlockValue::kAttended) return "stage-attended";
  return value == BlockValue::kMlpHidden ? "stage-mlp-hidden" : "stage-after-attention";
}

bool Contains(const std::vector<BlockValue>& values, BlockValue value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

absl::Status StageValues::Read(int64_t sequence, BlockPass& pass) const {
  pass.tokens = tokens_[static_cast<size_t>(sequence)];
  for (FloatBuffer& values : pass.values) values.clear();
  for (const auto& [value, file] : kept_) RETURN_IF_ERROR(file->Read(sequence, pass[value]));
  if (kept_.contains(BlockValue::kAfterAttention)) return absl::OkStatus();
  return inputs_.Read(sequence, false, pass[BlockValue::kInput]);
}

absl::Status StageValues::Start(BlockValue until, int64_t width) {
  const int64_t tokens = std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0});
  needed_ = KeptAfter(until, static_cast<uint64_t>(tokens * width) * sizeof(float));
  for (const BlockValue value : needed_) {
    if (kept_.contains(value)) continue;
    ASSIGN_OR_RETURN(ActivationWriter file, ActivationWriter::Create(sink_, FileOf(value)));
    writing_.emplace(value, Writing{std::move(file)});
  }
  return absl::OkStatus();
}

absl::Status StageValues::Append(const BlockPass& pass) {
  for (auto& [value, writing] : writing_) {
    RETURN_IF_ERROR(writing.file.Append(pass[value]));
    writing.width = static_cast<int64_t>(pass[value].size()) / pass.tokens;
  }
  return absl::OkStatus();
}

absl::Status StageValues::Finish() {
  for (auto& [value, writing] : writing_) {
    RETURN_IF_ERROR(writing.file.Seal());
    ASSIGN_OR_RETURN(kept_[value],
                     ActivationFile::OpenOwn(sink_, FileOf(value), tokens_, writing.width));
  }
  writing_.clear();
  for (auto it = kept_.begin(); it != kept_.end();) {
    const BlockValue value = it->first;
    if (Contains(needed_, value)) {
      ++it;
      continue;
    }
    it = kept_.erase(it);
    RETURN_IF_ERROR(sink_.RemoveScratch(FileOf(value)));
  }
  return absl::OkStatus();
}

absl::Status StageValues::Clear() {
  needed_.clear();
  return Finish();
}

uint64_t StageValues::DiskBytes(uint64_t tokens, int64_t hidden_size, int64_t intermediate_size) {
  const uint64_t narrow = tokens * static_cast<uint64_t>(hidden_size) * sizeof(float);
  const uint64_t wide = tokens * static_cast<uint64_t>(intermediate_size) * sizeof(float);
  return narrow + (wide > kMostHiddenBytes ? narrow : std::max(narrow, wide));
}

}  // namespace quantd
