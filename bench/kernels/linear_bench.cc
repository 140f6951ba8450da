// How fast is Backend::Linear for every layout, against what the memory and the arithmetic allow?
//
//   QUANTD_ISA=avx2 linear_bench [cpu | opencl:N] [threads]
//
// Decode (1 token) runs over enough copies of a matrix to overflow the caches, and is a matter of
// bytes: GB/s of packed weights, and percent of the read bandwidth measured here in the same
// minute. Prefill (128 tokens) is a matter of arithmetic: GOP/s, two per multiply-add. Medians. One
// JSON line per measurement.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/parallel.h"
#include "kernels/backend.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsOf(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double MedianSeconds(int repeats, const std::function<void()>& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(SecondsOf(work));
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[repeats / 2];
}

// GB/s that the team can read from memory on huge pages.
double ReadBandwidth() {
  constexpr size_t kBytes = size_t{512} << 20;
  auto buffer = Buffer::Allocate(kBytes);
  if (!buffer.ok()) return 0;
  auto* words = reinterpret_cast<uint64_t*>(buffer->data());
  std::fill_n(words, kBytes / 8, uint64_t{1});
  std::vector<uint64_t> sums(64 * 8);
  const auto read = [&] {
    ParallelTeam([&](int thread, int threads) {
      const size_t count = kBytes / 8 / 32 * 32;
      const size_t begin = count * thread / threads / 32 * 32;
      const size_t end = count * (thread + 1) / threads / 32 * 32;
      uint64_t lanes[32] = {};
      for (size_t i = begin; i < end; i += 32) {
        for (int lane = 0; lane < 32; ++lane) lanes[lane] += words[i + lane];
      }
      sums[thread % 64 * 8] = std::accumulate(lanes, lanes + 32, uint64_t{0});
    });
  };
  return kBytes / MedianSeconds(5, read) / 1e9;
}

struct Kind {
  const char* name;
  std::function<Weight(int64_t, int64_t)> make;
};

Weight Random(int64_t rows, int64_t cols, const Grid& grid, const BlockShape& block, bool zero) {
  std::mt19937 random(1);
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  t.grid = grid;
  t.block = block;
  t.codes.resize(static_cast<size_t>(rows * cols));
  for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random() & ((1 << grid.bits) - 1));
  if (grid.is_e4m3) {
    for (uint8_t& code : t.codes) code &= 0xbf;
  }
  t.scale.assign(static_cast<size_t>(t.block_count()), 0.0078125f);
  if (zero) {
    for (size_t i = 0; i < t.scale.size(); ++i) t.zero_point.push_back(static_cast<float>(i % 16));
  }
  return t;
}

std::vector<Kind> Kinds() {
  std::vector<float> table(16);
  for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(i) / 8 - 1 + 0.01f;
  const Grid lut = TableGrid(4, table);
  const auto quantized = [](Grid grid, BlockShape block, bool zero = false) {
    return [=](int64_t rows, int64_t cols) { return Random(rows, cols, grid, block, zero); };
  };
  const auto dense = [](DType dtype) {
    return [=](int64_t rows, int64_t cols) -> Weight {
      std::mt19937 random(1);
      std::vector<float> values(static_cast<size_t>(rows * cols));
      for (float& v : values) v = static_cast<float>(random()) / 4e9f - 0.5f;
      return ConvertTensor(TensorOf<float>(DType::kF32, {rows, cols}, values), dtype);
    };
  };
  return {
      {"int4_group32", quantized(UniformGrid(4, true), {1, 32})},
      {"int4_group128_zero", quantized(UniformGrid(4, false), {1, 128}, true)},
      {"int8_row", quantized(UniformGrid(8, true), {1, 0})},
      {"int8_group32", quantized(UniformGrid(8, true), {1, 32})},
      {"lut4_64", quantized(lut, {1, 64})},
      {"fp8_row", quantized(E4M3Grid(), {1, 0})},
      {"bf16", dense(DType::kBF16)},
      {"f16", dense(DType::kF16)},
      {"f32", dense(DType::kF32)},
  };
}

struct Shape2 {
  int64_t rows, cols;
};

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}

void Measure(Backend& backend, const Kind& kind, const Shape2& shape, double bandwidth) {
  const Weight weight = kind.make(shape.rows, shape.cols);
  const Weight* parts[] = {&weight};
  std::vector<std::unique_ptr<PackedWeight>> copies;
  uint64_t bytes = 0;
  constexpr uint64_t kEnough = uint64_t{192} << 20;
  do {
    auto packed = backend.Pack(parts, {});
    Check(packed.status());
    bytes += (*packed)->bytes();
    copies.push_back(*std::move(packed));
  } while (bytes < kEnough);

  for (const int64_t tokens : {1, 8, 128}) {
    auto x = *backend.Allocate(tokens, shape.cols);
    auto y = *backend.Allocate(tokens, shape.rows);
    std::vector<float> values(static_cast<size_t>(tokens * shape.cols));
    std::mt19937 random(2);
    for (float& v : values) v = static_cast<float>(random()) / 4e9f - 0.5f;
    Check(backend.Upload(values, *x));
    const size_t calls = tokens == 1 ? copies.size() : std::min<size_t>(copies.size(), 8);
    std::vector<float> one(static_cast<size_t>(shape.rows));
    const double seconds = MedianSeconds(9, [&] {
      LinearArgs args;
      args.x = x.get();
      args.y = y.get();
      args.tokens = tokens;
      for (size_t i = 0; i < calls; ++i) {
        args.weight = copies[i].get();
        Check(backend.Linear(args));
      }
      Check(backend.Download(*y, 0, 1, one));
    });
    const double rate = bytes / copies.size() * calls / seconds / 1e9;
    const double operations = 2.0 * shape.rows * shape.cols * tokens * calls / seconds / 1e9;
    std::printf(
        "{\"layout\": \"%s\", \"rows\": %lld, \"cols\": %lld, \"tokens\": %lld, \"us\": %.1f, "
        "\"weight_gb_s\": %.1f, \"percent_of_bandwidth\": %.0f, \"gop_s\": %.0f}\n",
        kind.name, static_cast<long long>(shape.rows), static_cast<long long>(shape.cols),
        static_cast<long long>(tokens), seconds / calls * 1e6, rate,
        bandwidth > 0 ? 100 * rate / bandwidth : 0.0, operations);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  using namespace quantd;
  const std::string device = argc > 1 ? argv[1] : "cpu";
  if (argc > 2) SetComputeThreads(std::atoi(argv[2]));
  if (device == "--bandwidth") {
    RunCompute(TaskPriority::kInteractive, [] { std::printf("%.2f\n", ReadBandwidth()); });
    return 0;
  }
  auto backend = CreateBackend(device);
  Check(backend.status());
  RunCompute(TaskPriority::kInteractive, [&] {
    std::printf("{\"device\": \"%s\", \"threads\": %d}\n", (*backend)->info().description.c_str(),
                ComputeThreads());
    for (const Shape2 shape : {Shape2{576, 576}, Shape2{1536, 576}, Shape2{2048, 5632}}) {
      for (const Kind& kind : Kinds()) {
        const double bandwidth = device == "cpu" ? ReadBandwidth() : 0;
        Measure(**backend, kind, shape, bandwidth);
      }
    }
  });
  return 0;
}
