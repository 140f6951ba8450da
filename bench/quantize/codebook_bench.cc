// How long does a calibrated method take for one matrix, and how good is the result?
//
//   codebook_bench METHOD ROWS COLS FILE THREADS [option=value ...]
//
// FILE holds the matrix [rows, cols] and the mean of x x^T over the calibration tokens [cols,
// cols], float32. One JSON line: seconds, processor seconds of all threads, and the error of the
// outputs, tr(D G D^T) / tr(W G W^T). codebooks.py runs PyTorch beside it.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

double ProcessorSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// tr(M gram M^T).
double Trace(const std::vector<float>& matrix, const std::vector<float>& gram, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(matrix.size()) / cols;
  std::vector<float> product(matrix.size());
  AddMatrixProduct(rows, cols, cols, {matrix.data(), cols}, {gram.data(), cols}, product.data(),
                   cols);
  double sum = 0;
  for (size_t i = 0; i < matrix.size(); ++i) sum += double{matrix[i]} * product[i];
  return sum;
}

int Run(int argc, char** argv) {
  const int64_t rows = std::atoll(argv[2]), cols = std::atoll(argv[3]);
  std::vector<float> weight(static_cast<size_t>(rows * cols)), gram(size_t(cols * cols));
  std::ifstream file(argv[4], std::ios::binary);
  file.read(reinterpret_cast<char*>(weight.data()), std::streamsize(weight.size() * 4));
  file.read(reinterpret_cast<char*>(gram.data()), std::streamsize(gram.size() * 4));
  if (!file) return std::cerr << argv[4] << " is too short\n", 1;
  SetComputeThreads(std::atoi(argv[5]));
  std::map<std::string, std::string> options;
  for (int i = 6; i < argc; ++i) {
    const std::string text = argv[i];
    options[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  const auto recipe = MakeRecipe(argv[1], options);
  if (!recipe.ok()) return std::cerr << recipe.status() << "\n", 1;
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  info.layer = 0;
  info.rows = rows;
  info.cols = cols;
  const Scheme* scheme = (*recipe)->SchemeFor(info, ModelConfig());
  std::vector<float> importance(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) importance[c] = gram[c * (cols + 1)];
  InputStats stats;
  stats.gram = gram;
  stats.importance = importance;
  stats.tokens = 1;
  const Tensor tensor = TensorOf<float>(DType::kF32, {rows, cols}, std::span<const float>(weight));
  const auto start = std::chrono::steady_clock::now();
  const double before = ProcessorSeconds();
  const auto found = scheme->Quantize(tensor, &stats);
  const double cpu = ProcessorSeconds() - before;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!found.ok()) return std::cerr << found.status() << "\n", 1;
  std::vector<float> difference = Dequantize(*found);
  for (size_t i = 0; i < weight.size(); ++i) difference[i] -= weight[i];
  const double error = Trace(difference, gram, cols) / Trace(weight, gram, cols);
  std::printf("{\"seconds\": %.3f, \"cpu_seconds\": %.3f, \"error\": %.6g}\n", seconds, cpu, error);
  return 0;
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  if (argc < 6) {
    std::cerr << "codebook_bench METHOD ROWS COLS FILE THREADS [option=value ...]\n";
    return 2;
  }
  return quantd::Run(argc, argv);
}
