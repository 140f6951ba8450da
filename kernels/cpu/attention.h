// Backend::Attention on the compute team.
#ifndef QUANTD_KERNELS_CPU_ATTENTION_H_
#define QUANTD_KERNELS_CPU_ATTENTION_H_

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_cache.h"

namespace quantd::cpu {

// One team region per call: rotate q and k and fill the caches, a barrier, then threads take items
// of one KV head times some rows of one sequence; all query heads of the group share each pass over
// the keys. A single row with many keys is cut into runs of keys, merged after another barrier. How
// work is cut depends on the sequence alone, never on the batch or the number of threads.
class AttentionRunner {
 public:
  explicit AttentionRunner(const KernelTable& kernels) : kernels_(kernels) {}
  // INVALID_ARGUMENT when the shapes do not fit together, FAILED_PRECONDITION when a cache is full.
  absl::Status Run(const AttentionArgs& args);

 private:
  struct Sequence {
    SequenceRows rows;
    KvLayer layer;
    int64_t own_offset = -1;  // in own_kv_
  };

  // Queries [first_query, + queries) of one KV head, counted row by row and then by head of the
  // group.
  struct Item {
    int32_t sequence;
    int32_t kv_head;
    int64_t first_query;
    int queries;
    int64_t first_key, end_key;
    int64_t partial;  // offset in partial_, or -1 when the item is complete
  };

  // Items [first_item, + items) are runs of keys of the same queries.
  struct Merge {
    size_t first_item, items;
  };

  struct State {
    float* maximum;
    float* sums;
    float* out;
    int64_t queries;
    int stride;
  };

  absl::Status Plan(const AttentionArgs& args);
  void AddItems(const AttentionArgs& args, int64_t sequence);
  void Rotate(const AttentionArgs& args, int64_t token_head);
  void Attend(const AttentionArgs& args, const Item& item, std::vector<float>& buffer);
  void Combine(const AttentionArgs& args, const Merge& merge);
  void Write(const AttentionArgs& args, const Item& item, const State& state) const;
  State StateOf(float* memory, int64_t queries, int value_stride) const;

  const KernelTable& kernels_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> sequence_of_row_;
  std::vector<Item> items_;
  std::vector<Merge> merges_;
  std::vector<float> q_;        // [kv_heads][tokens][group][head_dim], rotated and scaled
  std::vector<float> own_kv_;   // keys and values of sequences without a cache
  std::vector<float> partial_;  // states of items that are merged
  std::vector<std::vector<float>> buffers_;  // per thread
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_ATTENTION_H_
