#include "models/sampling/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace quantd {
namespace {

constexpr uint64_t kPcgMultiplier = 6364136223846793005u;
constexpr uint64_t kPcgIncrement = 1442695040888963407u;
// An id past this is not a token: the table of seen ones stays small.
constexpr int32_t kMaxId = 1 << 24;

uint64_t FreshSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// exp(x) for x <= 0 within 2 ulp, written so that compilers vectorize it: 2^n * 2^f with a
// degree-6 minimax polynomial on [-0.5, 0.5].
inline float FastExp(float x) {
  x = std::max(x, -87.0f);
  const float t = x * 1.44269504088896341f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const float n = (t + kRound) - kRound;
  // Two-part ln 2 keeps the remainder exact.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// The largest logit. Anything that cannot be sampled from is an error.
absl::StatusOr<float> CheckedMax(std::span<const float> logits) {
  float max = -std::numeric_limits<float>::infinity();
  bool bad = false;
  for (const float logit : logits) {
    max = std::max(max, logit);
    bad |= !(logit <= std::numeric_limits<float>::max());
  }
  if (!bad && std::isfinite(max)) return max;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= std::numeric_limits<float>::max()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "logit ", i, " of ", logits.size(), " is ", std::isnan(logits[i]) ? "NaN" : "+Inf",
        "; the model's weights are broken or it was computed past the range of its types"));
  }
  return absl::InvalidArgumentError("no token can be sampled: every logit is -Inf");
}

absl::Status BadOption(absl::string_view name, double value, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", expected ", expected));
}

}  // namespace

absl::Status ValidateSamplingOptions(const SamplingOptions& options) {
  const auto inside = [](float value, float low, float high) {
    return value >= low && value <= high;  // false for NaN
  };
  if (!inside(options.temperature, 0, 1000)) {
    return BadOption("temperature", options.temperature, "0 to 1000");
  }
  if (options.top_k < 0) return BadOption("top_k", options.top_k, "0 or more");
  if (!inside(options.top_p, 0, 1) || options.top_p == 0) {
    return BadOption("top_p", options.top_p, "more than 0, at most 1");
  }
  if (!inside(options.min_p, 0, 1) || options.min_p == 1) {
    return BadOption("min_p", options.min_p, "0 or more, less than 1");
  }
  if (!inside(options.repetition_penalty, 0.01f, 100)) {
    return BadOption("repetition_penalty", options.repetition_penalty, "0.01 to 100");
  }
  return absl::OkStatus();
}

Pcg32::Pcg32(uint64_t seed) : state_(0) {
  Next();
  state_ += seed;
  Next();
}

uint32_t Pcg32::Next() {
  const uint64_t old = state_;
  state_ = old * kPcgMultiplier + kPcgIncrement;
  const uint32_t shifted = static_cast<uint32_t>(((old >> 18) ^ old) >> 27);
  return std::rotr(shifted, static_cast<int>(old >> 59));
}

double Pcg32::NextUnit() {
  const uint64_t high = Next(), low = Next();
  return static_cast<double>((high << 32 | low) >> 11) * 0x1.0p-53;
}

double LogSumExp(std::span<const float> logits, float max) {
  // Blocks keep the float sums short; the blocks add up in double.
  constexpr size_t kBlock = 512;
  double total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(logits.size(), begin + kBlock);
    float lanes[8] = {};
    size_t i = begin;
    for (; i + 8 <= end; i += 8) {
      for (size_t lane = 0; lane < 8; ++lane) lanes[lane] += FastExp(logits[i + lane] - max);
    }
    for (; i < end; ++i) lanes[i % 8] += FastExp(logits[i] - max);
    for (const float lane : lanes) total += lane;
  }
  return max + std::log(total);
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed.value_or(0)) {
  if (!options.seed && options.temperature > 0) random_ = Pcg32(FreshSeed());
}

void Sampler::Observe(std::span<const int32_t> ids) {
  if (options_.repetition_penalty == 1) return;
  for (const int32_t id : ids) {
    if (id < 0 || id >= kMaxId) continue;
    if (static_cast<size_t>(id) >= seen_.size()) seen_.resize(id + 1, false);
    if (seen_[id]) continue;
    seen_[id] = true;
    seen_ids_.push_back(id);
  }
}

void Sampler::Penalize(std::span<const float> logits) {
  penalized_.assign(logits.begin(), logits.end());
  for (const int32_t id : seen_ids_) {
    if (static_cast<size_t>(id) >= penalized_.size()) continue;
    float& logit = penalized_[id];
    logit = logit < 0 ? logit * options_.repetition_penalty : logit / options_.repetition_penalty;
  }
}

absl::StatusOr<SampledToken> Sampler::Sample(std::span<const float> logits) {
  ASSIGN_OR_RETURN(const float max, CheckedMax(logits));
  std::span<const float> used = logits;
  if (!seen_ids_.empty()) {
    Penalize(logits);
    used = penalized_;
  }
  SampledToken token;
  if (options_.temperature == 0 || options_.top_k == 1) {
    token.id = static_cast<int32_t>(std::max_element(used.begin(), used.end()) - used.begin());
  } else {
    token.id = Draw(used);
  }
  token.logprob = static_cast<float>(logits[token.id] - LogSumExp(logits, max));
  return token;
}

// Without filters: walks the ids in order.
int32_t Sampler::DrawFromAll(std::span<const float> logits, float max) {
  const double scale = 1.0 / options_.temperature;
  double total = 0;
  for (const float logit : logits) total += std::exp((double{logit} - max) * scale);
  double left = random_.NextUnit() * total;
  int32_t last = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((double{logits[i]} - max) * scale);
    if (weight > 0) last = static_cast<int32_t>(i);
    left -= weight;
    if (left < 0) return last;
  }
  return last;
}

int32_t Sampler::Draw(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  const bool filters = options_.top_k > 0 || options_.top_p < 1 || options_.min_p > 0;
  if (!filters) return DrawFromAll(logits, max);
  // What min-p will drop in the end needs no sorting now; but top-p counts it first.
  const bool early_min_p = options_.min_p > 0 && options_.top_p == 1;
  const double floor =
      max + double{options_.temperature} * std::log(std::max(double{options_.min_p}, 1e-300));
  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (early_min_p && logits[i] < floor) continue;
    if (logits[i] == -std::numeric_limits<float>::infinity()) continue;
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  if (options_.top_k > 0) KeepTopK(static_cast<size_t>(options_.top_k));
  const auto weight = [&](const Candidate& candidate) {
    return std::exp((double{candidate.logit} - max) / options_.temperature);
  };
  if (options_.top_p < 1) {
    for (const Candidate& candidate : candidates_) total += weight(candidate);
    KeepTopP(total, max);
  }
  if (options_.min_p > 0 && !early_min_p) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < floor; });
  }
  total = 0;
  for (const Candidate& candidate : candidates_) total += weight(candidate);
  double left = random_.NextUnit() * total;
  for (const Candidate& candidate : candidates_) {
    left -= weight(candidate);
    if (left < 0) return candidate.id;
  }
  return candidates_.front().id;
}

namespace {

// Higher logits first, lower ids among equals.
constexpr auto kBetter = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

}  // namespace

void Sampler::KeepTopK(size_t k) {
  if (k >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(), kBetter);
  candidates_.resize(k);
  std::sort(candidates_.begin(), candidates_.end(), kBetter);
}

// Sorts only as many of the best as it takes to reach the probability.
void Sampler::KeepTopP(double total, float max) {
  const double wanted = double{options_.top_p} * total;
  size_t sorted = 0, block = 64;
  double sum = 0;
  while (sorted < candidates_.size()) {
    const size_t end = std::min(candidates_.size(), sorted + block);
    if (end < candidates_.size()) {
      std::nth_element(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(),
                       kBetter);
    }
    std::sort(candidates_.begin() + sorted, candidates_.begin() + end, kBetter);
    for (; sorted < end; ++sorted) {
      sum += std::exp((double{candidates_[sorted].logit} - max) / options_.temperature);
      if (sum >= wanted) {
        candidates_.resize(sorted + 1);
        return;
      }
    }
    block *= 4;
  }
}

}  // namespace quantd
