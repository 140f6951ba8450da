// Calibration with products on a device: the same bytes, whatever the device does or fails to do.
#include "kernels/product_device.h"

#include <gtest/gtest.h>

#include <climits>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/rounded_product.h"
#include "memory_source.h"
#include "models/calibration/block_model.h"
#include "tests/models/calibration_job_fixture.h"

namespace quantd {
namespace {

class HostMatrix final : public DeviceMatrix {
 public:
  explicit HostMatrix(int& live) : live_(live) { ++live_; }
  ~HostMatrix() override { --live_; }
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  void Set(const MatrixOperand& from, int64_t rows, int64_t cols) {
    rows_ = rows;
    cols_ = cols;
    values.resize(static_cast<size_t>(rows * cols));
    for (int64_t i = 0; i < rows * cols && from.data != nullptr; ++i) {
      values[i] = from.data[i / cols * from.row_stride + i % cols * from.col_stride];
    }
    if (from.data == nullptr) std::ranges::fill(values, 0.0f);
  }
  MatrixOperand operand(bool transposed) const {
    const MatrixOperand plain = {values.data(), cols_, 1};
    return transposed ? plain.Transposed() : plain;
  }

  std::vector<float> values;

 private:
  int& live_;
  int64_t rows_ = 0, cols_ = 0;
};

// A device with memory of its own that counts what it is asked for, and fails when a test says so.
class FakeDevice final : public ProductDevice {
 public:
  enum class Call { kUpload, kZero, kRound, kProduct, kDownload };

  std::string id() const override { return "fake:0"; }
  int64_t piece() const override { return 1 << 18; }
  bool is_wide() const override { return wide; }
  absl::Status CheckRoom(uint64_t bytes, uint64_t largest) const override {
    return bytes <= room && largest <= room ? absl::OkStatus()
                                            : absl::ResourceExhaustedError("too small");
  }
  absl::Status Upload(const MatrixOperand& from, int64_t rows, int64_t cols,
                      std::unique_ptr<DeviceMatrix>& to) override {
    RETURN_IF_ERROR(Count(Call::kUpload));
    floats_uploaded += rows * cols;
    Of(to).Set(from, rows, cols);
    return absl::OkStatus();
  }
  absl::Status Zero(int64_t rows, int64_t cols, std::unique_ptr<DeviceMatrix>& to) override {
    RETURN_IF_ERROR(Count(Call::kZero));
    Of(to).Set({}, rows, cols);
    return absl::OkStatus();
  }
  absl::Status AddProduct(const DeviceProduct& product, DeviceMatrix& c) override {
    RETURN_IF_ERROR(Count(Call::kProduct));
    bfloat16_products += product.bfloat16;
    const auto& a = static_cast<const HostMatrix&>(*product.a);
    const auto& b = static_cast<const HostMatrix&>(*product.b);
    auto& to = static_cast<HostMatrix&>(c);
    MatrixOperand left = a.operand(product.a_transposed);
    left.data += product.first_row * left.row_stride;
    const MatrixOperand right = b.operand(product.b_transposed);
    const int64_t inner = product.a_transposed ? a.rows() : a.cols();
    if (product.bfloat16) {
      RoundedOperand rows, cols;
      rows.Pack(ProductRounding::kBFloat16, ProductSide::kLeft, left, to.rows(), inner);
      cols.Pack(ProductRounding::kBFloat16, ProductSide::kRight, right.Transposed(), to.cols(),
                inner);
      MultiplyRounded(rows, cols, {0, to.rows(), to.cols()}, true, to.values.data(), to.cols());
    } else {
      AddMatrixProduct(to.rows(), to.cols(), inner, left, right, to.values.data(), to.cols());
    }
    if (adds_an_ulp) to.values.back() = std::nextafter(to.values.back(), 1.0f);
    return absl::OkStatus();
  }
  absl::Status RoundToBFloat16(DeviceMatrix&) override {  // RoundedOperand::Pack does
    return Count(Call::kRound);
  }
  absl::Status Download(const DeviceMatrix& from, float* to, int64_t stride) override {
    RETURN_IF_ERROR(Count(Call::kDownload));
    const auto& matrix = static_cast<const HostMatrix&>(from);
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      std::copy_n(matrix.values.data() + r * matrix.cols(), matrix.cols(), to + r * stride);
    }
    return absl::OkStatus();
  }

  int live = 0;  // matrices
  int calls = 0;
  int64_t floats_uploaded = 0;
  uint64_t room = UINT64_MAX;
  bool wide = false, adds_an_ulp = false;
  int bfloat16_products = 0;
  int first_failure = -1, last_failure = -1;  // calls that fail
  std::multiset<Call> made;

 private:
  absl::Status Count(Call call) {
    made.insert(call);
    ++calls;
    const bool fails = calls >= first_failure && calls <= last_failure;
    return fails ? absl::ResourceExhaustedError("the fake device is full") : absl::OkStatus();
  }
  HostMatrix& Of(std::unique_ptr<DeviceMatrix>& wanted) {
    if (wanted == nullptr) wanted = std::make_unique<HostMatrix>(live);
    return static_cast<HostMatrix&>(*wanted);
  }
};

class ProductDeviceJobTest : public CalibrationJobTest {
 protected:
  // On the device, or on the CPU.
  absl::StatusOr<QuantizeReport> QuantizeOn(const std::shared_ptr<ProductDevice>& device,
                                            const std::string& name, bool resume = false) {
    CalibrationData data = Data();
    data.device = device;
    data.model = *OpenBlockModel(
        *OpenModelSource(root_, "tiny"),
        {.positions = 40, .stopped = [this] { return control_.cancel.load(); }, .device = device});
    return QuantizeCheckpoint(root_, "tiny", FittedRecipe({}, nullptr),
                              {.name = name, .overwrite = true, .resume = resume}, control_, &data);
  }
};

TEST_F(ProductDeviceJobTest, WritesTheSameBytes) {
  const auto expected = QuantizeOn(nullptr, "cpu");
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(expected->calibration_device, "cpu");
  const auto device = std::make_shared<FakeDevice>();
  const auto report = QuantizeOn(device, "device");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->calibration_device, "fake:0");
  EXPECT_EQ(report->warnings, expected->warnings);
  EXPECT_EQ(Read("device"), Read("cpu"));
  // Of five sequences: seven linears of the first block, of the last all but down; and the sums of
  // the four inputs of each block.
  EXPECT_EQ(device->made.count(FakeDevice::Call::kProduct), (7u + 6) * 5 + 2 * 4);
  EXPECT_EQ(device->live, 0);
  // Weights go up once, when they are quantized; inputs for the linears and for their sums.
  const auto source = OpenModelSource(root_, "tiny");
  const ModelConfig& config = (*source)->config();
  const int64_t hidden = config.hidden_size, wide = config.intermediate_size;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t block = hidden * (2 * hidden + 2 * kv + 3 * wide);
  const int64_t tokens = 40 + 39 + 38 + 37 + 36;
  EXPECT_LE(device->floats_uploaded, 2 * (block + 2 * tokens * (3 * hidden + wide)));
}

TEST_F(ProductDeviceJobTest, AFailureAtAnyCallLosesNothing) {
  ASSERT_TRUE(QuantizeOn(nullptr, "cpu").ok());
  const Files expected = Read("cpu");
  const auto whole = std::make_shared<FakeDevice>();
  ASSERT_TRUE(QuantizeOn(whole, "device").ok());
  int warned = 0, interrupted = 0;
  for (int call = 1; call <= whole->calls; call += 13) {
    SCOPED_TRACE(call);
    const auto device = std::make_shared<FakeDevice>();
    device->first_failure = call;
    device->last_failure = call % 2 == 0 ? call : INT_MAX;  // once, or from now on
    auto report = QuantizeOn(device, "failing");
    EXPECT_EQ(device->live, 0);
    if (!report.ok()) {
      // Sums of inputs that the device held are gone.
      ++interrupted;
      ASSERT_TRUE(absl::IsAborted(report.status())) << report.status();
      EXPECT_NE(report.status().message().find("resume"), absl::string_view::npos);
      EXPECT_EQ(Entries(), 4u) << "cpu, device, tiny and the part";
      report = QuantizeOn(nullptr, "failing", /*resume=*/true);
      ASSERT_TRUE(report.ok()) << report.status();
    } else {
      ++warned;
      const auto& warnings = report->warnings;
      EXPECT_EQ(
          std::ranges::count(warnings, "calibrated on the CPU in part: the fake device is full"),
          1);
    }
    EXPECT_EQ(Read("failing"), expected);
    std::filesystem::remove_all(path_ / "failing");
  }
  EXPECT_GT(warned, 5);
  EXPECT_GT(interrupted, 5);
}

TEST_F(ProductDeviceJobTest, ACancelFreesTheDevice) {
  const auto device = std::make_shared<FakeDevice>();
  int calls = 0;
  control_.on_progress = [&](const QuantizeProgress&) {
    if (++calls == 12) control_.cancel = true;
  };
  EXPECT_TRUE(absl::IsCancelled(QuantizeOn(device, "out").status()));
  EXPECT_GT(device->calls, 0);
  EXPECT_EQ(device->live, 0);
  EXPECT_EQ(Entries(), 1u);
}

TEST(ProductDevice, RoomForTheLargestBlock) {
  const ModelConfig config = TinyDecoderConfig();
  FakeDevice device;
  EXPECT_TRUE(CheckProductRoom(config, 40, device).ok());
  device.room =
      sizeof(float) * static_cast<uint64_t>(3 * config.hidden_size * config.intermediate_size);
  EXPECT_TRUE(absl::IsResourceExhausted(CheckProductRoom(config, 40, device)));
}

TEST(ProductDevice, OtherBitsAreFound) {
  FakeDevice good;
  EXPECT_TRUE(CheckProducts(good).ok());
  FakeDevice other;
  other.adds_an_ulp = true;
  const absl::Status status = CheckProducts(other);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("fake:0"), absl::string_view::npos);
}

// A pass and its gradients on the device and on the CPU, in float32 and in bfloat16.
void CheckBothDirections(const std::function<std::unique_ptr<ModelSource>()>& source, bool wide) {
  const auto vocabulary = static_cast<int>(source()->config().vocab_size);
  constexpr int64_t kTokens = 33;
  const auto device = std::make_shared<FakeDevice>();
  device->wide = wide;
  std::vector<FloatBuffer> outputs;
  std::vector<BlockGradients> gradients;
  for (const auto& which : {std::shared_ptr<FakeDevice>(), device}) {
    const auto model = *OpenBlockModel(source(), {.positions = kTokens, .device = which});
    std::vector<int32_t> ids(kTokens);
    for (int i = 0; i < kTokens; ++i) ids[i] = i * 31 % vocabulary;
    const std::vector<float> hidden = *model->Embed(ids);
    const auto block = *model->LoadBlock(1);
    EXPECT_EQ(block->device(), which.get());
    gradients.emplace_back();
    for (const BlockLinear& linear : block->linears()) {
      gradients.back()[linear.module];
      if (!block->Parameter(linear.module + ".bias").empty()) {
        gradients.back()[linear.module + ".bias"];
      }
    }
    for (const std::string& norm : block->norms()) gradients.back()[norm];
    // With weights that change in between; gradients are added to.
    bool in_bfloat16 = false;
    for (const bool bfloat16 : {false, false, true, true, false}) {
      if (bfloat16 != in_bfloat16) {
        block->SetRounding(bfloat16 ? BlockRounding::Everywhere(ProductRounding::kBFloat16)
                                    : BlockRounding());
      }  // forgets all weights
      in_bfloat16 = bfloat16;
      const BlockPass pass = block->Run(BlockValue::kInput, hidden, BlockValue::kOutput);
      block->Backward(pass, pass[BlockValue::kOutput], gradients.back(), /*more=*/false);
      outputs.push_back(pass[BlockValue::kOutput]);
      for (const BlockLinear& linear : block->linears()) {
        for (float& w : block->Parameter(linear.module + ".weight")) w *= 0.75f;
      }
    }
  }
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(outputs[5 + round], outputs[round]) << round;
    EXPECT_NE(outputs[round], outputs[(round + 1) % 5]) << round;
  }
  EXPECT_EQ(gradients[1], gradients[0]);
  constexpr int kProducts = 15;  // at least, of a pass and its gradients
  EXPECT_GE(device->made.count(FakeDevice::Call::kProduct), (wide ? 5u : 3u) * kProducts);
  EXPECT_EQ(device->bfloat16_products > 0, wide);
  EXPECT_EQ(device->live, 0);
}

TEST(ProductDevice, BlocksAndTheirGradientsHaveTheSameBits) {
  SetComputeThreads(1);
  ModelConfig config = TinyDecoderConfig();
  config.attention_bias = true;
  for (const bool wide : {false, true}) {
    CheckBothDirections([&config] { return RandomDecoder(config, 5); }, wide);
    CheckBothDirections([] { return RandomEncoder(TinyEncoderConfig(), 5); }, wide);
  }
  SetComputeThreads(0);
}

}  // namespace
}  // namespace quantd
