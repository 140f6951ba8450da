#include "models/engine.h"

#include <algorithm>
#include <bit>

#include "core/parallel.h"

namespace quantd {

void Batch::Add(KvCache* cache, std::span<const int32_t> tokens, int32_t position) {
  sequences.push_back({.cache = cache,
                       .first_row = rows(),
                       .rows = static_cast<int32_t>(tokens.size()),
                       .position = position});
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

void Batch::Clear() {
  ids.clear();
  sequences.clear();
  wanted.clear();
}

uint64_t Engine::workspace_bytes() const {
  const uint64_t device = decoder ? decoder->workspace_bytes() : encoder->workspace_bytes();
  return device + logits.size() * sizeof(float);
}

void Engine::RunInteractive(absl::FunctionRef<void()> task) const {
  if (device == "cpu") {
    RunCompute(TaskPriority::kInteractive, task);
  } else {
    task();
  }
}

absl::Status Engine::Forward(const Batch& batch, LogitsVisitor visit) {
  absl::Status status;
  RunInteractive([&] { status = ForwardHere(batch, visit); });
  return status;
}

absl::Status Engine::ForwardHere(const Batch& batch, LogitsVisitor visit) {
  RETURN_IF_ERROR(decoder->Forward(batch.ids, batch.sequences));
  const std::span<const int32_t> wanted(batch.wanted);
  const size_t vocab = static_cast<size_t>(config.vocab_size);
  for (size_t first = 0; first < wanted.size(); first += max_logit_rows) {
    const size_t count = std::min<size_t>(max_logit_rows, wanted.size() - first);
    const std::span<float> rows(logits.data(), count * vocab);
    RETURN_IF_ERROR(decoder->Logits(wanted.subspan(first, count), rows));
    RETURN_IF_ERROR(visit(first, rows));
  }
  return absl::OkStatus();
}

bool AllFinite(std::span<const float> values) {
  // An exponent of all ones is an infinity or a NaN; integer arithmetic that vectorizes.
  uint32_t bad = 0;
  for (const float value : values) {
    const uint32_t exponent = std::bit_cast<uint32_t>(value) & 0x7f800000u;
    bad |= exponent == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

}  // namespace quantd
