// BitNet's layers against upstream's forward pass (tests/data/golden/bitnet, float32), and the
// pieces that a stack falls into when its parts treat their inputs in ways of their own.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/float_types.h"
#include "core/parallel.h"
#include "formats/safetensors/safetensors.h"
#include "memory_source.h"
#include "models/linear.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

std::map<std::string, Tensor> ReadGolden(const std::string& variant, const std::string& file) {
  std::ifstream stream(TestData("golden/bitnet/" + variant + "/" + file + ".safetensors"),
                       std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  const auto reader = *SafetensorsReader::FromBytes({bytes.begin(), bytes.end()});
  std::map<std::string, Tensor> tensors;
  for (const TensorInfo& info : reader->header().tensors) {
    tensors[info.name] = *reader->Read(info.name);
  }
  return tensors;
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
  LoadFloats(tensor, 0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

// The tensors of one module as a codec wants to see them.
class GoldenModule : public ModuleTensors {
 public:
  explicit GoldenModule(const std::map<std::string, Tensor>& tensors) : tensors_(tensors) {}
  const std::string& module() const override { return module_; }
  std::vector<std::string> names() const override { return {}; }
  bool Has(absl::string_view name) const override { return tensors_.contains(std::string(name)); }
  absl::StatusOr<TensorView> Describe(absl::string_view name) const override {
    return tensors_.at(std::string(name)).view();
  }
  absl::StatusOr<Tensor> Read(absl::string_view name) const override {
    return tensors_.at(std::string(name));
  }

 private:
  const std::map<std::string, Tensor>& tensors_;
  std::string module_ = kModule;
};

// A ternary matrix with inputs rounded to int8 and, if `norm` is not 0, a norm of that weight.
QuantizedTensor Ternary(int64_t rows, int64_t cols, int seed, float norm) {
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  t.grid = UniformGrid(2, /*is_signed=*/false);
  t.grid.first = -1;
  t.block = {.rows = 0, .cols = 0};
  t.scale = {0.25f};
  for (int64_t i = 0; i < rows * cols; ++i) {
    t.codes.push_back(static_cast<uint8_t>((i * 7 + i / 5 + seed) % 3));
  }
  t.input.int8_tokens = true;
  t.input.norm_epsilon = 1e-6f;
  if (norm != 0) {
    for (int64_t c = 0; c < cols; ++c) t.input.norm_weight.push_back(norm + 0.01f * c);
  }
  return t;
}

// What upstream's layer makes of one token, in double; float where upstream rounds.
std::vector<double> Reference(const QuantizedTensor& t, std::vector<float> x) {
  if (!t.input.norm_weight.empty()) {
    double squares = 0;
    for (const float v : x) squares += v * v;
    const double scale = 1 / std::sqrt(squares / t.cols + t.input.norm_epsilon);
    for (int64_t c = 0; c < t.cols; ++c)
      x[c] = static_cast<float>(x[c] * scale) * t.input.norm_weight[c];
  }
  float largest = 1e-5f;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  const float steps = 127.0f / largest;
  for (float& v : x) v = std::nearbyint(v * steps) / steps;
  const std::vector<float> w = Dequantize(t);
  std::vector<double> y(t.rows);
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.cols; ++c) y[r] += double{x[c]} * w[r * t.cols + c];
  }
  return y;
}

class BitLinear : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
  }
  std::unique_ptr<DeviceArray> Array(int64_t rows, int64_t cols, const std::vector<float>& values) {
    auto array = *backend_->Allocate(rows, cols);
    EXPECT_TRUE(backend_->Upload(values, *array).ok());
    return array;
  }
  // y of `args` [tokens, cols], whose x and y are replaced.
  std::vector<float> Run(const Linear& linear, LinearArgs args, const std::vector<float>& x,
                         int64_t in, int64_t out) {
    args.tokens = static_cast<int64_t>(x.size()) / in;
    const auto input = Array(args.tokens, in, x);
    const auto output = *backend_->Allocate(args.tokens, out);
    args.x = input.get();
    args.y = output.get();
    std::vector<float> y(static_cast<size_t>(args.tokens * out));
    absl::Status status;
    RunCompute(TaskPriority::kInteractive, [&] {
      status = linear.Apply(*backend_, args);
      if (status.ok()) status = backend_->Download(*output, 0, args.tokens, y);
    });
    EXPECT_TRUE(status.ok()) << status;
    return y;
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(BitLinear, GivesUpstreamsForward) {
  for (const std::string variant : {"linear-bitlinear-fp32", "linear-bitlinear-rmsnorm-fp32",
                                    "linear-autobitlinear-offline-fp32"}) {
    SCOPED_TRACE(variant);
    ModelConfig config;
    const bool automatic = variant.find("auto") != std::string::npos;
    const bool norm = variant.find("rmsnorm") != std::string::npos;
    config.quantization_config = std::string(R"({"quant_method": "bitnet", "linear_class": ")") +
                                 (automatic ? "autobitlinear" : "bitlinear") +
                                 "\", \"use_rms_norm\": " + (norm ? "true" : "false") + "}";
    const auto stored = ReadGolden(variant, "quantized");
    MemorySource source(config);
    source.Set(std::string(kModule) + ".weight",
               *(*CodecFor(config))->Decode(GoldenModule(stored)));
    if (stored.contains("bias")) {
      source.SetFloats(std::string(kModule) + ".bias", {64}, Floats(stored.at("bias")));
    }
    const auto linear =
        Linear::Load(source, *backend_, {{kModule, 64}}, 96, {.compute = Compute::kExact});
    ASSERT_TRUE(linear.ok()) << linear.status();
    const std::vector<float> y =
        Run(*linear, {}, Floats(ReadGolden(variant, "input").at("x")), 96, 64);
    const std::vector<float> expected = Floats(ReadGolden(variant, "expected").at("y"));
    ASSERT_EQ(y.size(), expected.size());
    // Float sums in another order; a wrong rounding of one input would be 100 times as far off.
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-5) << i;
  }
}

TEST_P(BitLinear, PartsWithNormsOfTheirOwn) {
  constexpr int64_t kCols = 40;
  const std::vector<QuantizedTensor> parts = {Ternary(24, kCols, 0, 1.0f),
                                              Ternary(8, kCols, 1, 0.5f), Ternary(8, kCols, 2, 0)};
  MemorySource source{ModelConfig()};
  std::vector<Linear::Part> names;
  std::vector<float> bias;
  for (size_t p = 0; p < parts.size(); ++p) {
    const std::string name(1, static_cast<char>('a' + p));
    names.push_back({name, parts[p].rows});
    source.Set(name + ".weight", parts[p]);
    const std::vector<float> part_bias(parts[p].rows, 0.5f * static_cast<float>(p));
    source.SetFloats(name + ".bias", {parts[p].rows}, part_bias);
    bias.insert(bias.end(), part_bias.begin(), part_bias.end());
  }
  const auto linear = Linear::Load(source, *backend_, names, kCols, {.compute = Compute::kExact});
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->pieces(), 3);
  for (const int64_t tokens : {1, 9}) {
    std::vector<float> x(tokens * kCols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
    const std::vector<float> y = Run(*linear, {}, x, kCols, 40);
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t row = 0;
      for (const QuantizedTensor& part : parts) {
        const std::vector<float> token(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
        for (const double value : Reference(part, token)) {
          ASSERT_NEAR(y[t * 40 + row], value + bias[row], 1e-4) << t << ", " << row;
          ++row;
        }
      }
    }
  }
}

TEST_P(BitLinear, GateAndUpWithNormsOfTheirOwn) {
  constexpr int64_t kCols = 24, kRows = 16;
  const QuantizedTensor gate = Ternary(kRows, kCols, 0, 1.0f), up = Ternary(kRows, kCols, 1, 2.0f);
  MemorySource source{ModelConfig()};
  source.Set("gate.weight", gate);
  source.Set("up.weight", up);
  const auto linear = Linear::Load(source, *backend_, {{"gate", kRows}, {"up", kRows}}, kCols,
                                   {.compute = Compute::kExact, .pair_gate_up = true});
  ASSERT_TRUE(linear.ok()) << linear.status();
  std::vector<float> x(3 * kCols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::cos(static_cast<float>(i));
  const std::vector<float> y = Run(*linear, {.activation = Activation::kSiluMul}, x, kCols, kRows);
  for (int64_t t = 0; t < 3; ++t) {
    const std::vector<float> token(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
    const std::vector<double> g = Reference(gate, token), u = Reference(up, token);
    for (int64_t r = 0; r < kRows; ++r) {
      ASSERT_NEAR(y[t * kRows + r], g[r] / (1 + std::exp(-g[r])) * u[r], 1e-4) << t << ", " << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, BitLinear, testing::Values("cpu", "opencl"));

}  // namespace
}  // namespace quantd
