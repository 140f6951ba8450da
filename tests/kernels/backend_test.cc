#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "tests/kernels/testing.h"

namespace quantd::testing {
namespace {

using ::testing::HasSubstr;

TEST(CreateBackend, RefusesUnknownSpellings) {
  for (const char* name :
       {"", "gpu", "CPU", "opencl:", "opencl:x", "opencl:-1", "opencl:1 ", "cpu:0"}) {
    EXPECT_EQ(CreateBackend(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(CreateBackend, EnvironmentForcesTheInstructionSet) {
  for (const std::string& isa : SupportedIsas()) {
    EXPECT_THAT(BackendOn(isa)->info().description, HasSubstr("(" + isa)) << isa;
  }
  const ScopedEnvironment forced("QUANTD_ISA", "mmx");
  const absl::Status status = CreateBackend("cpu").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("scalar"));
}

TEST(ListDevices, NamesTheCpu) {
  const std::vector<DeviceInfo> devices = ListDevices();
  ASSERT_FALSE(devices.empty());
  EXPECT_EQ(devices[0].id, "cpu");
  EXPECT_GT(devices[0].memory_bytes, 0u);
}

class BackendOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> backend_ = BackendOn(GetParam());
};

TEST_P(BackendOnIsa, EmbedReadsRowsOfEveryLayout) {
  constexpr int64_t kRows = 37, kCols = 129;
  const std::vector<int32_t> ids = {36, 0, 5, 5, 17, 31};
  for (const WeightKind& kind : WeightKinds()) {
    const Weight weight = kind.make(kRows, kCols, 1);
    const std::vector<float> dense = DenseOf(weight);
    const auto packed = PackOne(*backend_, weight);
    const auto y = ArrayOf(*backend_, 6, kCols, {});
    ASSERT_TRUE(backend_->Embed(*packed, ids, *y).ok());
    std::vector<double> expected;
    for (const int32_t id : ids) {
      expected.insert(expected.end(), dense.begin() + id * kCols, dense.begin() + (id + 1) * kCols);
    }
    // Scales and offsets of 11 bits.
    EXPECT_LT(RelativeError(Read(*backend_, *y), expected), 5e-4) << kind.name;
  }
}

TEST_P(BackendOnIsa, EmbedRefusesIdsOutsideTheTable) {
  const auto packed = PackOne(*backend_, WeightKinds()[0].make(4, 8, 1));
  const auto y = ArrayOf(*backend_, 1, 8, {});
  const int32_t ids[] = {4};
  EXPECT_EQ(backend_->Embed(*packed, ids, *y).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(BackendOnIsa, NormalizeAddsTheResidualFirst) {
  const auto x = ArrayOf(*backend_, 1, 3, {1, 2, 3});
  const auto residual = ArrayOf(*backend_, 1, 3, {1, 0, 1});
  const auto y = ArrayOf(*backend_, 1, 3, {});
  ASSERT_TRUE(
      backend_->Normalize(*x, residual.get(), {Norm::Kind::kRms, nullptr, nullptr, 0}, 1, *y).ok());
  const float factor = 1 / std::sqrt((4.0f + 4 + 16) / 3);
  EXPECT_THAT(Read(*backend_, *y),
              ::testing::Pointwise(::testing::FloatEq(),
                                   std::vector<float>{2 * factor, 2 * factor, 4 * factor}));
}

TEST_P(BackendOnIsa, GatherRowsPicksRows) {
  const auto x = ArrayOf(*backend_, 3, 2, {1, 2, 3, 4, 5, 6});
  const auto y = ArrayOf(*backend_, 2, 2, {});
  const int32_t rows[] = {2, 0};
  ASSERT_TRUE(backend_->GatherRows(*x, rows, *y).ok());
  EXPECT_EQ(Read(*backend_, *y), (std::vector<float>{5, 6, 1, 2}));
}

TEST_P(BackendOnIsa, PackRefusesInconsistentWeights) {
  Weight weight = WeightKinds()[6].make(4, 64, 1);
  std::get<QuantizedTensor>(weight).scale.pop_back();
  const Weight* parts[] = {&weight};
  EXPECT_EQ(backend_->Pack(parts, {}).status().code(), absl::StatusCode::kInvalidArgument);

  const Weight narrow = WeightKinds()[0].make(4, 32, 1), wide = WeightKinds()[0].make(4, 64, 1);
  const Weight* unequal[] = {&narrow, &wide};
  EXPECT_EQ(backend_->Pack(unequal, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(backend_->Allocate(int64_t{1} << 40, int64_t{1} << 40).ok());
}

INSTANTIATE_TEST_SUITE_P(AllIsas, BackendOnIsa, ::testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd::testing
