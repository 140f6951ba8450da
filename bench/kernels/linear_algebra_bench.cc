// How fast are the products and factorizations of the calibrated solvers?
//
//   linear_algebra_bench [size] [threads]
//
// Product X^T X of `size` channels and 2048 tokens, update C += A B with an inner dimension of
// 128, Cholesky factor, factor of the inverse. One JSON line each: the least seconds of three runs
// and GFLOP/s, a multiply-add counting two. linear_algebra_bench.py runs the same in numpy beside.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "kernels/linear_algebra/triangular.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

void Report(const char* name, int64_t n, double flops, const std::function<void()>& prepare,
            const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {
    prepare();
    const auto start = Clock::now();
    work();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::printf("{\"what\": \"%s\", \"size\": %lld, \"seconds\": %.4f, \"gflops\": %.1f}\n", name,
              static_cast<long long>(n), least, flops / least * 1e-9);
  std::fflush(stdout);
}

void Run(int64_t n) {
  constexpr int64_t kTokens = 2048, kInner = 128;
  const double size = static_cast<double>(n);
  std::vector<float> x(static_cast<size_t>(kTokens * n)), gram(static_cast<size_t>(n * n)), work;
  uint32_t state = 1;
  for (float& value : x) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) / (1 << 23) - 1;
  }
  const auto nothing = [] {};
  Report("product", n, 2.0 * kTokens * size * size, nothing, [&] {
    std::fill(gram.begin(), gram.end(), 0.0f);
    AddMatrixProduct(n, n, kTokens, {x.data(), 1, n}, {x.data(), n, 1}, gram.data(), n);
  });
  for (int64_t i = 0; i < n; ++i) gram[i * n + i] += 1000;
  work = gram;
  Report("update", n, 2.0 * kInner * size * size, nothing, [&] {
    AddMatrixProduct(n, n, kInner, {x.data(), kInner, 1}, {x.data(), n, 1}, work.data(), n);
  });
  const auto copy = [&] { work = gram; };
  Report("cholesky", n, size * size * size / 3, copy, [&] { CholeskyLower(work.data(), n); });
  Report("factor_of_inverse", n, size * size * size * 2 / 3, copy,
         [&] { UpperFactorOfInverse(work.data(), n); });
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  if (argc > 2) quantd::SetComputeThreads(std::atoi(argv[2]));
  quantd::Run(argc > 1 ? std::atoll(argv[1]) : 4096);
}
