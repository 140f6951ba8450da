// A small random decoder, written against kernels/backend.h, gives the same logits on OpenCL and
// CPU.
#include "core/parallel.h"
#include "tests/kernels/opencl/fixture.h"
#include "tests/kernels/opencl/matrices.h"

namespace quantd {
namespace {

constexpr int kHidden = 66;
constexpr int kHeads = 6;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 22;
constexpr int kFeed = 97;
constexpr int kVocabulary = 129;
constexpr int kLayers = 2;
constexpr int kMaxTokens = 40;

struct Layer {
  std::unique_ptr<PackedWeight> qkv, output, gate_up, down;
  std::unique_ptr<DeviceArray> attention_norm, feed_norm;
};

class Decoder {
 public:
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(Backend& backend, Compute compute) {
    auto decoder = std::unique_ptr<Decoder>(new Decoder(backend, compute));
    RETURN_IF_ERROR(decoder->Load());
    return decoder;
  }

  // Logits of the last of `ids`, which follow what was fed before.
  absl::StatusOr<std::vector<float>> Feed(const std::vector<int32_t>& ids) {
    const auto tokens = static_cast<int64_t>(ids.size());
    RETURN_IF_ERROR(backend_.Embed(*embedding_, ids, *x_));
    for (int layer = 0; layer < kLayers; ++layer) {
      RETURN_IF_ERROR(RunLayer(layers_[layer], layer, tokens));
    }
    position_ += static_cast<int>(tokens);
    RETURN_IF_ERROR(backend_.Normalize(*x_, nullptr, NormOf(*final_norm_), tokens, *x_));
    const std::vector<int32_t> last = {static_cast<int32_t>(tokens - 1)};
    RETURN_IF_ERROR(backend_.GatherRows(*x_, last, *last_));
    RETURN_IF_ERROR(backend_.Linear(
        {.weight = head_.get(), .norm = {}, .x = last_.get(), .tokens = 1, .y = logits_.get()}));
    std::vector<float> logits(kVocabulary);
    RETURN_IF_ERROR(backend_.Download(*logits_, 0, 1, logits));
    return logits;
  }

 private:
  Decoder(Backend& backend, Compute compute) : backend_(backend), compute_(compute) {}

  static Norm NormOf(const DeviceArray& weight) { return {Norm::Kind::kRms, &weight}; }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      std::initializer_list<std::pair<const char*, int64_t>> parts, int64_t cols) {
    std::vector<Weight> weights;
    for (const auto& [name, rows] : parts) {
      weights.push_back(MatrixCaseNamed(name).make(rows, cols, seed_++));
    }
    std::vector<const Weight*> pointers;
    for (const Weight& weight : weights) pointers.push_back(&weight);
    return backend_.Pack(pointers, {.compute = compute_});
  }

  absl::StatusOr<std::unique_ptr<DeviceArray>> Constant(int64_t rows, int64_t cols,
                                                        const std::vector<float>& values) {
    ASSIGN_OR_RETURN(std::unique_ptr<DeviceArray> array, backend_.Allocate(rows, cols));
    RETURN_IF_ERROR(backend_.Upload(values, *array));
    return array;
  }

  absl::Status Load() {
    ASSIGN_OR_RETURN(embedding_, Pack({{"F16", kVocabulary}}, kHidden));
    ASSIGN_OR_RETURN(head_, Pack({{"Int8Row", kVocabulary}}, kHidden));
    ASSIGN_OR_RETURN(final_norm_, Constant(1, kHidden, RandomFloats(kHidden, seed_++)));
    for (int i = 0; i < kLayers; ++i) {
      Layer layer;
      ASSIGN_OR_RETURN(layer.qkv, Pack({{"Int4Group", kHeads * kHeadDim},
                                        {"Int4Asymmetric", kKvHeads * kHeadDim},
                                        {"Int8Row", kKvHeads * kHeadDim}},
                                       kHidden));
      ASSIGN_OR_RETURN(layer.output, Pack({{"Int4Group", kHidden}}, kHeads * kHeadDim));
      ASSIGN_OR_RETURN(layer.gate_up, Pack({{"Int4Group", kFeed}, {"Int4Group", kFeed}}, kHidden));
      ASSIGN_OR_RETURN(layer.down, Pack({{"BF16", kHidden}}, kFeed));
      ASSIGN_OR_RETURN(layer.attention_norm, Constant(1, kHidden, RandomFloats(kHidden, seed_++)));
      ASSIGN_OR_RETURN(layer.feed_norm, Constant(1, kHidden, RandomFloats(kHidden, seed_++)));
      layers_.push_back(std::move(layer));
    }
    std::vector<float> rope(kMaxTokens * kHeadDim);
    for (int i = 0; i < kMaxTokens * kHeadDim; ++i) {
      const int pair = i % (kHeadDim / 2);
      const double angle = (i / kHeadDim) * std::pow(100.0, -2.0 * pair / kHeadDim);
      const bool cosine = i % kHeadDim < kHeadDim / 2;
      rope[i] = static_cast<float>(cosine ? std::cos(angle) : std::sin(angle));
    }
    ASSIGN_OR_RETURN(rope_, Constant(kMaxTokens, kHeadDim, rope));
    ASSIGN_OR_RETURN(cache_,
                     backend_.CreateKvCache({kLayers, kKvHeads, kHeadDim, kMaxTokens, compute_}));
    ASSIGN_OR_RETURN(x_, backend_.Allocate(kMaxTokens, kHidden));
    ASSIGN_OR_RETURN(qkv_, backend_.Allocate(kMaxTokens, (kHeads + 2 * kKvHeads) * kHeadDim));
    ASSIGN_OR_RETURN(heads_, backend_.Allocate(kMaxTokens, kHeads * kHeadDim));
    ASSIGN_OR_RETURN(feed_, backend_.Allocate(kMaxTokens, kFeed));
    ASSIGN_OR_RETURN(last_, backend_.Allocate(1, kHidden));
    ASSIGN_OR_RETURN(logits_, backend_.Allocate(1, kVocabulary));
    return absl::OkStatus();
  }

  absl::Status RunLayer(const Layer& layer, int index, int64_t tokens) {
    RETURN_IF_ERROR(backend_.Linear({.weight = layer.qkv.get(),
                                     .norm = NormOf(*layer.attention_norm),
                                     .x = x_.get(),
                                     .tokens = tokens,
                                     .y = qkv_.get()}));
    const SequenceRows sequence[] = {{cache_.get(), 0, static_cast<int32_t>(tokens), position_}};
    RETURN_IF_ERROR(backend_.Attention({.layer = index,
                                        .heads = kHeads,
                                        .kv_heads = kKvHeads,
                                        .head_dim = kHeadDim,
                                        .scale = 0.2f,
                                        .rope = rope_.get(),
                                        .qkv = qkv_.get(),
                                        .sequences = sequence,
                                        .out = heads_.get()}));
    RETURN_IF_ERROR(backend_.Linear({.weight = layer.output.get(),
                                     .norm = {},
                                     .x = heads_.get(),
                                     .tokens = tokens,
                                     .residual = x_.get(),
                                     .y = x_.get()}));
    RETURN_IF_ERROR(backend_.Linear({.weight = layer.gate_up.get(),
                                     .norm = NormOf(*layer.feed_norm),
                                     .x = x_.get(),
                                     .tokens = tokens,
                                     .activation = Activation::kSiluMul,
                                     .y = feed_.get()}));
    return backend_.Linear({.weight = layer.down.get(),
                            .norm = {},
                            .x = feed_.get(),
                            .tokens = tokens,
                            .residual = x_.get(),
                            .y = x_.get()});
  }

  Backend& backend_;
  Compute compute_;
  unsigned seed_ = 1;
  int position_ = 0;
  std::unique_ptr<PackedWeight> embedding_, head_;
  std::vector<Layer> layers_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<DeviceArray> final_norm_, rope_, x_, qkv_, heads_, feed_, last_, logits_;
};

// Prefill of 17 tokens, a chunk of 3, then single tokens: the logits after each, one below the
// other.
absl::StatusOr<std::vector<float>> Decode(Backend& backend, Compute compute) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder, Decoder::Create(backend, compute));
  std::vector<float> all;
  int32_t id = 5;
  for (const int tokens : {17, 3, 1, 1}) {
    std::vector<int32_t> ids(tokens);
    for (int32_t& next : ids) next = id = (id * 37 + 11) % kVocabulary;
    ASSIGN_OR_RETURN(const std::vector<float> logits, decoder->Feed(ids));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

class TransformerTest : public OpenClTest {
 protected:
  static std::vector<float> OnCpu(Compute compute) {
    auto cpu = CreateBackend("cpu");
    EXPECT_TRUE(cpu.ok()) << cpu.status();
    absl::StatusOr<std::vector<float>> logits;
    RunCompute(TaskPriority::kInteractive, [&] { logits = Decode(**cpu, compute); });
    EXPECT_TRUE(logits.ok()) << logits.status();
    return *logits;
  }
};

TEST_F(TransformerTest, ExactLogitsAgreeWithTheCpu) {
  const auto logits = Decode(backend(), Compute::kExact);
  ASSERT_OK(logits.status());
  // float32 in another order, through two layers.
  EXPECT_LT(RelativeDistance(*logits, OnCpu(Compute::kExact)), 1e-5);
}

TEST_F(TransformerTest, FastLogitsAgreeWithExactOnesAndTheCpu) {
  const auto logits = Decode(backend(), Compute::kFast);
  ASSERT_OK(logits.status());
  // Packed weights are the same numbers and activations are not rounded.
  EXPECT_LT(RelativeDistance(*logits, OnCpu(Compute::kExact)), 1e-5);
  // The CPU rounds activations to eight bits and its cache to sixteen.
  EXPECT_LT(RelativeDistance(OnCpu(Compute::kFast), *logits), 0.05);
}

}  // namespace
}  // namespace quantd
