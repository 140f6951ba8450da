// Attention over key-value caches on an OpenCL device; the arithmetic is in attention.cl.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/opencl/opencl_backend.h"
#include "kernels/opencl/sources.h"

namespace quantd::opencl {
namespace {

constexpr const char* kAttentionSources[] = {source::attention};
constexpr const char* kNormSources[] = {source::work_group, source::norm};
constexpr const char* kBlockSources[] = {source::attention_block};

absl::Status CheckCache(const AttentionArgs& args, const SequenceRows& sequence) {
  if (sequence.cache == nullptr) {
    if (sequence.position == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("a sequence without a cache starts at position 0");
  }
  const KvShape& shape = sequence.cache->shape();
  if (shape.kv_heads != args.kv_heads || shape.head_dim != args.head_dim || args.layer < 0 ||
      args.layer >= shape.layers) {
    return absl::InvalidArgumentError("the cache has another shape than the attention");
  }
  if (sequence.position >= 0 && sequence.rows <= shape.capacity - sequence.position) {
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(absl::StrCat(sequence.rows, " tokens at position ",
                                            sequence.position, " exceed the cache's capacity of ",
                                            shape.capacity, " tokens"));
}

absl::Status CheckAttention(const AttentionArgs& args) {
  if (args.heads <= 0 || args.kv_heads <= 0 || args.heads % args.kv_heads != 0 ||
      args.head_dim <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(args.heads, " heads over ", args.kv_heads,
                                                   " key-value heads of ", args.head_dim));
  }
  const int64_t width = int64_t{args.heads} + 2 * int64_t{args.kv_heads};
  if (args.qkv->cols() != width * args.head_dim ||
      args.out->cols() != int64_t{args.heads} * args.head_dim) {
    return absl::InvalidArgumentError("qkv or the output has a width that the heads do not give");
  }
  const auto fits = [&args](const DeviceArray* norm) {
    return norm == nullptr || (norm->rows() >= 1 && norm->cols() == args.head_dim);
  };
  if (!fits(args.q_norm) || !fits(args.k_norm) ||
      (args.q_norm == nullptr) != (args.k_norm == nullptr)) {
    return absl::InvalidArgumentError("the norms of q and k are not as wide as a head");
  }
  for (const SequenceRows& sequence : args.sequences) {
    RETURN_IF_ERROR(CheckCache(args, sequence));
    const int64_t end = int64_t{sequence.first_row} + sequence.rows;
    if (sequence.first_row < 0 || sequence.rows < 0 || end > args.qkv->rows() ||
        end > args.out->rows()) {
      return absl::InvalidArgumentError("the rows of a sequence are outside of the batch");
    }
    if (args.rope != nullptr && (args.rope->cols() > args.head_dim || args.rope->cols() % 2 != 0 ||
                                 args.rope->rows() < int64_t{sequence.position} + sequence.rows)) {
      return absl::OutOfRangeError(absl::StrCat("positions up to ",
                                                sequence.position + sequence.rows,
                                                " exceed the rotary table of ", args.rope->rows()));
    }
  }
  return absl::OkStatus();
}

struct AttendLaunch {
  KernelSpec spec;
  int lanes = 1;  // (row, head) pairs per work-group
  int group = 1;  // work-items
};

// Eight lanes share the reading of keys when there are as many.
AttendLaunch GroupLaunch(const Device& device, int64_t pairs, int head_dim) {
  AttendLaunch launch;
  launch.group = WorkGroupFor(device, 64);
  const auto fits = [&](size_t lanes) {
    const size_t floats = lanes * (head_dim + launch.group + 3) + launch.group;
    return lanes <= static_cast<size_t>(launch.group) &&
           floats * sizeof(float) <= device.local_memory;
  };
  launch.lanes = pairs >= 8 ? 8 : 1;
  while (launch.lanes > 1 && !fits(launch.lanes)) launch.lanes /= 2;
  launch.spec = {
      "Attend", kAttentionSources,
      absl::StrCat("-DHEAD_DIM=", head_dim, " -DWG=", launch.group, " -DLANES=", launch.lanes)};
  return launch;
}

AttendLaunch BlockLaunch(int64_t pairs, int head_dim) {
  AttendLaunch launch;
  launch.lanes = pairs >= 8 ? 8 : pairs >= 3 ? 4 : 1;
  launch.spec = {"AttendBlock", kBlockSources,
                 absl::StrCat("-DHEAD_DIM=", head_dim, " -DLANES=", launch.lanes)};
  return launch;
}

}  // namespace

absl::Status OpenClBackend::RunAttend(const AttentionArgs& args, const SequenceRows& sequence,
                                      cl_mem q, cl_mem keys, cl_mem values, int capacity) {
  const int64_t pairs = int64_t{sequence.rows} * (args.heads / args.kv_heads);
  const AttendLaunch launch = queue_.device().is_cpu
                                  ? BlockLaunch(pairs, args.head_dim)
                                  : GroupLaunch(queue_.device(), pairs, args.head_dim);
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get(launch.spec));
  Range range;
  range.global[0] = (pairs + launch.lanes - 1) / launch.lanes * launch.group;
  range.global[1] = args.kv_heads;
  range.local[0] = launch.group;
  range.local[1] = range.local[2] = 1;
  return queue_.Run(kernel, range, q, keys, values, AsCl(*args.out).buffer().get(),
                    cl_int(sequence.first_row), cl_int(sequence.rows), cl_int(args.heads),
                    cl_int(args.kv_heads), cl_int(sequence.position), cl_int(capacity),
                    cl_int(args.causal ? 1 : 0));
}

absl::Status OpenClBackend::AttendSequence(const AttentionArgs& args,
                                           const SequenceRows& sequence) {
  const uint64_t head_bytes = sizeof(float) * static_cast<uint64_t>(args.head_dim);
  ASSIGN_OR_RETURN(const cl_mem q,
                   ScratchBuffer(kQueries, head_bytes * args.heads * sequence.rows));
  cl_mem keys = nullptr;
  cl_mem values = nullptr;
  int capacity = PaddedCapacity(sequence.rows);
  if (sequence.cache != nullptr) {
    const ClKvCache& cache = AsCl(*sequence.cache);
    keys = cache.keys(args.layer).get();
    values = cache.values(args.layer).get();
    capacity = PaddedCapacity(cache.shape().capacity);
  } else {
    const uint64_t bytes = head_bytes * args.kv_heads * capacity;
    ASSIGN_OR_RETURN(keys, ScratchBuffer(kKeys, bytes));
    ASSIGN_OR_RETURN(values, ScratchBuffer(kValues, bytes));
  }
  RETURN_IF_ERROR(RunStore(args, sequence, q, keys, values, capacity));
  return RunAttend(args, sequence, q, keys, values, capacity);
}

absl::StatusOr<cl_mem> OpenClBackend::RunHeadFactors(const AttentionArgs& args,
                                                     const SequenceRows& sequence) {
  const int heads = args.heads + args.kv_heads;
  const int group = WorkGroupFor(queue_.device(), 64);
  ASSIGN_OR_RETURN(const cl_mem factors,
                   ScratchBuffer(kHeadFactors, sizeof(float) * heads * sequence.rows));
  ASSIGN_OR_RETURN(const cl_kernel kernel,
                   programs_.Get({"HeadFactors", kNormSources, absl::StrCat("-DWG=", group)}));
  Range range;
  range.global[0] = static_cast<size_t>(heads) * group;
  range.global[1] = sequence.rows;
  range.local[0] = group;
  range.local[1] = range.local[2] = 1;
  RETURN_IF_ERROR(queue_.Run(kernel, range, AsCl(*args.qkv).buffer().get(), factors,
                             cl_int(sequence.first_row), cl_int(args.heads), cl_int(args.kv_heads),
                             cl_int(args.head_dim), cl_float(args.norm_epsilon)));
  return factors;
}

absl::Status OpenClBackend::RunStore(const AttentionArgs& args, const SequenceRows& sequence,
                                     cl_mem q, cl_mem keys, cl_mem values, int capacity) {
  const cl_mem qkv = AsCl(*args.qkv).buffer().get();
  const auto or_qkv = [qkv](const DeviceArray* array) {
    return array != nullptr ? AsCl(*array).buffer().get() : qkv;
  };
  std::string defines = absl::StrCat("-DHEAD_DIM=", args.head_dim);
  cl_mem factors = qkv;
  if (args.q_norm != nullptr) {
    ASSIGN_OR_RETURN(factors, RunHeadFactors(args, sequence));
    absl::StrAppend(&defines, " -DQK_NORM");
  }
  ASSIGN_OR_RETURN(const cl_kernel store, programs_.Get({"StoreQkv", kAttentionSources, defines}));
  Range range;
  range.global[0] = args.head_dim;
  range.global[1] = args.heads + 2 * args.kv_heads;
  range.global[2] = sequence.rows;
  const int64_t rotary = args.rope != nullptr ? args.rope->cols() : 0;
  return queue_.Run(store, range, qkv, or_qkv(args.rope), q, keys, values,
                    cl_int(sequence.first_row), cl_int(args.heads), cl_int(args.kv_heads),
                    cl_int(rotary), cl_int(sequence.position), cl_int(capacity),
                    cl_float(args.scale), factors, or_qkv(args.q_norm), or_qkv(args.k_norm));
}

absl::Status OpenClBackend::Attention(const AttentionArgs& args) {
  RETURN_IF_ERROR(CheckAttention(args));
  for (const SequenceRows& sequence : args.sequences) {
    if (sequence.rows > 0) RETURN_IF_ERROR(AttendSequence(args, sequence));
  }
  return absl::OkStatus();
}

}  // namespace quantd::opencl
