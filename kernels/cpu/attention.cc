#include "kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/cpu/arrays.h"

namespace quantd::cpu {
namespace {

constexpr int64_t kSplitKeys = 2 * kAttentionKeys;  // keys of one item of a long single row

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status CheckShapes(const AttentionArgs& a) {
  if (a.qkv == nullptr || a.out == nullptr || a.heads <= 0 || a.kv_heads <= 0 || a.head_dim <= 0 ||
      a.head_dim > kLargestHead || a.heads % a.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("attention: impossible heads: ", a.heads, " of ",
                                                   a.head_dim, " over ", a.kv_heads));
  }
  const int64_t qkv = (a.heads + 2 * int64_t{a.kv_heads}) * a.head_dim;
  const int64_t out = int64_t{a.heads} * a.head_dim;
  if (a.qkv->cols() != qkv || a.out->cols() != out) {
    return absl::InvalidArgumentError(absl::StrCat("attention: qkv has ", a.qkv->cols(),
                                                   " columns, expected ", qkv, "; out has ",
                                                   a.out->cols(), ", expected ", out));
  }
  const auto fits = [&a](const DeviceArray* norm) {
    return norm == nullptr || (norm->rows() >= 1 && norm->cols() == a.head_dim);
  };
  if (!fits(a.q_norm) || !fits(a.k_norm) || (a.q_norm == nullptr) != (a.k_norm == nullptr)) {
    return absl::InvalidArgumentError("attention: the norms of q and k are not as wide as a head");
  }
  if (a.rope != nullptr && (a.rope->cols() > a.head_dim || a.rope->cols() % 2 != 0)) {
    return absl::InvalidArgumentError("attention: the rotation is wider than a head");
  }
  return absl::OkStatus();
}

absl::Status CheckSequence(const AttentionArgs& a, const SequenceRows& s) {
  const int64_t end = int64_t{s.position} + s.rows;
  if (s.rows < 0 || s.first_row < 0 || s.position < 0 ||
      int64_t{s.first_row} + s.rows > std::min(a.qkv->rows(), a.out->rows()) ||
      (a.rope != nullptr && end > a.rope->rows()) || (s.cache == nullptr && s.position != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("attention: rows ", s.first_row, " to ",
                                                   s.first_row + s.rows, " at position ",
                                                   s.position, " are out of range"));
  }
  if (s.cache == nullptr) return absl::OkStatus();
  const KvShape& shape = s.cache->shape();
  if (a.layer < 0 || a.layer >= shape.layers || shape.kv_heads != a.kv_heads ||
      shape.head_dim != a.head_dim) {
    return absl::InvalidArgumentError("attention: the KV cache has another shape");
  }
  if (end > shape.capacity) {
    return absl::FailedPreconditionError(
        absl::StrCat("the KV cache holds ", shape.capacity, " tokens, ", end, " are needed"));
  }
  return absl::OkStatus();
}

// Rotates pairs (i, i + n/2) of the first rope_cols dimensions: the "rotate half" form of RoPE (Su
// et al. 2021) that Llama-like checkpoints use.
void RotateHalf(const float* in, int head_dim, const float* rope, int64_t rope_cols, float scale,
                float* out) {
  const int64_t half = rope_cols / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float c = rope[i], s = rope[half + i];
    out[i] = (in[i] * c - in[half + i] * s) * scale;
    out[half + i] = (in[half + i] * c + in[i] * s) * scale;
  }
  for (int64_t i = 2 * half; i < head_dim; ++i) out[i] = in[i] * scale;
}

}  // namespace

AttentionRunner::State AttentionRunner::StateOf(float* memory, int64_t queries, int stride) const {
  return {memory, memory + queries, memory + queries * 17, queries, stride};
}

void AttentionRunner::AddItems(const AttentionArgs& args, int64_t index) {
  const Sequence& s = sequences_[index];
  const int group = args.heads / args.kv_heads;
  const int64_t queries = int64_t{s.rows.rows} * group;
  const int64_t keys = int64_t{s.rows.position} + s.rows.rows;
  const int tile =
      group <= kAttentionQueries ? kAttentionQueries / group * group : kAttentionQueries;
  const bool split = s.rows.rows == 1 && keys >= 2 * kSplitKeys;
  for (int head = 0; head < args.kv_heads; ++head) {
    for (int64_t q = 0; q < queries; q += tile) {
      Item item{static_cast<int32_t>(index),
                head,
                q,
                static_cast<int>(std::min<int64_t>(tile, queries - q)),
                0,
                keys,
                -1};
      const int64_t last_row = (q + item.queries - 1) / group;
      if (args.causal) item.end_key = s.rows.position + last_row + 1;
      if (!split) {
        items_.push_back(item);
        continue;
      }
      merges_.push_back({items_.size(), static_cast<size_t>(CeilDiv(keys, kSplitKeys))});
      const int64_t floats = item.queries * (17 + int64_t{s.layer.value_stride});
      for (int64_t first = 0; first < keys; first += kSplitKeys) {
        item.first_key = first;
        item.end_key = std::min(first + kSplitKeys, keys);
        item.partial = static_cast<int64_t>(partial_.size());
        partial_.resize(partial_.size() + static_cast<size_t>(floats));
        items_.push_back(item);
      }
    }
  }
}

absl::Status AttentionRunner::Plan(const AttentionArgs& args) {
  RETURN_IF_ERROR(CheckShapes(args));
  sequences_.clear();
  items_.clear();
  merges_.clear();
  partial_.clear();
  sequence_of_row_.clear();
  int64_t own = 0;
  for (const SequenceRows& rows : args.sequences) {
    RETURN_IF_ERROR(CheckSequence(args, rows));
    Sequence s{rows, {}, -1};
    if (rows.cache != nullptr) {
      s.layer = static_cast<CpuKvCache*>(rows.cache)->layer(args.layer);
    } else {
      s.layer = MakeKvLayer(/*half=*/false, args.head_dim, rows.rows);
      s.own_offset = own;
      own += (s.layer.head_key_bytes() + s.layer.head_value_bytes()) / 4 * args.kv_heads;
    }
    const size_t end = static_cast<size_t>(rows.first_row) + static_cast<size_t>(rows.rows);
    if (sequence_of_row_.size() < end) sequence_of_row_.resize(end, -1);
    std::fill(sequence_of_row_.begin() + rows.first_row, sequence_of_row_.begin() + end,
              static_cast<int32_t>(sequences_.size()));
    sequences_.push_back(s);
  }
  if (static_cast<int64_t>(own_kv_.size()) < own) own_kv_.resize(static_cast<size_t>(own));
  for (Sequence& s : sequences_) {
    if (s.own_offset < 0) continue;
    s.layer.keys = reinterpret_cast<std::byte*>(own_kv_.data() + s.own_offset);
    s.layer.values = s.layer.keys + args.kv_heads * s.layer.head_key_bytes();
  }
  for (size_t i = 0; i < sequences_.size(); ++i) AddItems(args, static_cast<int64_t>(i));
  const size_t q = sequence_of_row_.size() * static_cast<size_t>(args.heads * args.head_dim);
  if (q_.size() < q) q_.resize(q);
  return absl::OkStatus();
}

void AttentionRunner::Rotate(const AttentionArgs& args, int64_t token_head) {
  const int64_t token = token_head / args.kv_heads;
  const int head = static_cast<int>(token_head % args.kv_heads);
  if (sequence_of_row_[token] < 0) return;
  const Sequence& s = sequences_[sequence_of_row_[token]];
  const int group = args.heads / args.kv_heads;
  const int64_t dim = args.head_dim;
  const int64_t position = s.rows.position + token - s.rows.first_row;
  const float* rope = args.rope == nullptr ? nullptr : AsCpu(*args.rope).row(position);
  const int64_t rope_cols = args.rope == nullptr ? 0 : args.rope->cols();
  float buffer[kLargestHead];
  const auto normed = [&](const float* x, const DeviceArray* weight) -> const float* {
    if (weight == nullptr) return x;
    const RowNorm norm = {.kind = Norm::Kind::kRms,
                          .weight = AsCpu(*weight).data(),
                          .bias = nullptr,
                          .epsilon = args.norm_epsilon};
    kernels_.normalize(x, dim, norm, buffer);
    return buffer;
  };
  const float* in = AsCpu(*args.qkv).row(token);
  const int64_t tokens = static_cast<int64_t>(sequence_of_row_.size());
  float* q = q_.data() + (head * tokens + token) * group * dim;
  for (int g = 0; g < group; ++g) {
    RotateHalf(normed(in + (head * group + g) * dim, args.q_norm), args.head_dim, rope, rope_cols,
               args.scale, q + g * dim);
  }
  float key[kLargestHead];
  const float* k = in + (args.heads + head) * dim;
  RotateHalf(normed(k, args.k_norm), args.head_dim, rope, rope_cols, 1.0f, key);
  s.layer.Store(kernels_, head, position, key, k + args.kv_heads * dim);
}

void AttentionRunner::Attend(const AttentionArgs& args, const Item& item,
                             std::vector<float>& buffer) {
  const Sequence& s = sequences_[item.sequence];
  const int stride = s.layer.value_stride;
  const int64_t state_floats = item.queries * (17 + int64_t{stride});
  const size_t needed = static_cast<size_t>(state_floats + item.queries * kAttentionKeys);
  if (buffer.size() < needed) buffer.resize(needed);
  const State state = StateOf(item.partial < 0 ? buffer.data() : partial_.data() + item.partial,
                              item.queries, stride);
  std::fill_n(state.maximum, item.queries, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sums, item.queries * (16 + int64_t{stride}), 0.0f);

  const int group = args.heads / args.kv_heads;
  int64_t limits[kAttentionQueries];
  for (int i = 0; i < item.queries; ++i) {
    const int64_t row = (item.first_query + i) / group;
    limits[i] = s.rows.position + (args.causal ? row + 1 : s.rows.rows);
  }
  const int64_t tokens = static_cast<int64_t>(sequence_of_row_.size());
  AttentionTile tile;
  tile.half = s.layer.half;
  tile.queries = item.queries;
  tile.head_dim = args.head_dim;
  tile.value_stride = stride;
  tile.first_key = item.first_key;
  tile.end_key = item.end_key;
  tile.keys = s.layer.head_keys(item.kv_head);
  tile.values = s.layer.head_values(item.kv_head);
  tile.q = q_.data() +
           ((item.kv_head * tokens + s.rows.first_row) * group + item.first_query) * args.head_dim;
  tile.limits = limits;
  tile.maximum = state.maximum;
  tile.sums = state.sums;
  tile.out = state.out;
  tile.scratch = buffer.data() + state_floats;
  kernels_.attention_tile(tile);
  if (item.partial < 0) Write(args, item, state);
}

void AttentionRunner::Write(const AttentionArgs& args, const Item& item, const State& state) const {
  const Sequence& s = sequences_[item.sequence];
  const int group = args.heads / args.kv_heads;
  for (int i = 0; i < item.queries; ++i) {
    const int64_t query = item.first_query + i;
    float sum = 0;
    for (int lane = 0; lane < 16; ++lane) sum += state.sums[i * 16 + lane];
    const int64_t head = item.kv_head * group + query % group;
    float* out = AsCpu(*args.out).row(s.rows.first_row + query / group) + head * args.head_dim;
    const float* from = state.out + i * int64_t{state.stride};
    for (int d = 0; d < args.head_dim; ++d) out[d] = from[d] / sum;
  }
}

void AttentionRunner::Combine(const AttentionArgs& args, const Merge& merge) {
  const Item& first = items_[merge.first_item];
  const int stride = sequences_[first.sequence].layer.value_stride;
  const State total = StateOf(partial_.data() + first.partial, first.queries, stride);
  for (size_t i = 1; i < merge.items; ++i) {
    const Item& item = items_[merge.first_item + i];
    const State part = StateOf(partial_.data() + item.partial, item.queries, stride);
    for (int q = 0; q < first.queries; ++q) {
      const float top = std::max(total.maximum[q], part.maximum[q]);
      const float a = std::exp(total.maximum[q] - top), b = std::exp(part.maximum[q] - top);
      const auto blend = [a, b](float* to, const float* from, int count) {
        for (int j = 0; j < count; ++j) to[j] = to[j] * a + from[j] * b;
      };
      blend(total.sums + q * 16, part.sums + q * 16, 16);
      blend(total.out + q * int64_t{stride}, part.out + q * int64_t{stride}, stride);
      total.maximum[q] = top;
    }
  }
  Write(args, first, total);
}

absl::Status AttentionRunner::Run(const AttentionArgs& args) {
  RETURN_IF_ERROR(Plan(args));
  const int64_t rotations = static_cast<int64_t>(sequence_of_row_.size()) * args.kv_heads;
  buffers_.resize(static_cast<size_t>(ComputeThreads()));
  std::atomic<size_t> next{0};
  ParallelTeam([&](int thread, int threads) {
    const int64_t end = rotations * (thread + 1) / threads;
    for (int64_t i = rotations * thread / threads; i < end; ++i) Rotate(args, i);
    if (threads > 1) TeamBarrier();
    // The last items of a causal sequence are its longest: take them first.
    while (true) {
      const size_t taken = next.fetch_add(1, std::memory_order_relaxed);
      if (taken >= items_.size()) break;
      Attend(args, items_[items_.size() - 1 - taken], buffers_[static_cast<size_t>(thread)]);
    }
    if (merges_.empty()) return;
    if (threads > 1) TeamBarrier();
    const size_t team = static_cast<size_t>(threads);
    for (size_t m = static_cast<size_t>(thread); m < merges_.size(); m += team) {
      Combine(args, merges_[m]);
    }
  });
  return absl::OkStatus();
}

}  // namespace quantd::cpu
