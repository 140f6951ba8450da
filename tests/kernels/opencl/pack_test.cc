// What is chosen to represent a weight; needs no device.
#include "kernels/opencl/pack.h"

#include <gtest/gtest.h>

#include "tests/kernels/opencl/matrices.h"

namespace quantd::opencl {
namespace {

PartImage PackedCase(const std::string& name, Compute compute = Compute::kFast) {
  // The weight must outlive the image, which may borrow from it.
  static auto* const kept = new std::vector<std::unique_ptr<Weight>>();
  kept->push_back(std::make_unique<Weight>(MatrixCaseNamed(name).make(33, 128, 1)));
  absl::StatusOr<PartImage> image = PackPart(*kept->back(), compute);
  EXPECT_TRUE(image.ok()) << image.status();
  return *std::move(image);
}

TEST(PackPart, ScalesTakeTheNarrowestExactType) {
  EXPECT_EQ(PackedCase("Int4Group").format.scale_storage, Storage::kF16);
  EXPECT_EQ(PackedCase("Int8RowPostScaled").format.scale_storage, Storage::kBF16);
  EXPECT_EQ(PackedCase("SubnormalScales").format.scale_storage, Storage::kF16);
  EXPECT_EQ(PackedCase("ZeroScales").format.scale_storage, Storage::kF32);
  EXPECT_EQ(PackedCase("Int4Offsets").format.scale_storage, Storage::kF32);
}

TEST(PackPart, ScalesStayFloat32WhenAsked) {
  const Weight weight = MatrixCaseNamed("Int4Group").make(33, 128, 1);
  absl::StatusOr<PartImage> image = PackPart(weight, Compute::kFast, ScaleWidth::kFloat32);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->format.scale_storage, Storage::kF32);
  EXPECT_EQ(image->scales.size(), 33u * 4 * sizeof(float));
}

TEST(PackPart, ZerosTakeTheCheapestExactForm) {
  const PartImage symmetric = PackedCase("Int4Group");
  EXPECT_EQ(symmetric.format.zero_storage, ZeroStorage::kConstant);
  EXPECT_EQ(symmetric.format.center, 8);
  EXPECT_TRUE(symmetric.zeros.empty());
  EXPECT_EQ(PackedCase("Int4Asymmetric").format.zero_storage, ZeroStorage::kByte);
  EXPECT_EQ(PackedCase("Int4Asymmetric").zeros.size(), 33u);
  EXPECT_EQ(PackedCase("Int4FractionalZeros").format.zero_storage, ZeroStorage::kMinimum);
  EXPECT_EQ(PackedCase("Int4Offsets").format.zero_storage, ZeroStorage::kMinimum);
}

TEST(PackPart, CodesTakeTwoFourOrEightBits) {
  EXPECT_EQ(PackedCase("Int2Group").chunks.size(), 33u * 128 / 4);
  EXPECT_EQ(PackedCase("Int3Group").chunks.size(), 33u * 128 / 2);
  EXPECT_EQ(PackedCase("Int4Group").chunks.size(), 33u * 128 / 2);
  EXPECT_EQ(PackedCase("Int5Group").chunks.size(), 33u * 128);
}

TEST(PackPart, DenseMatricesAreBorrowed) {
  EXPECT_TRUE(PackedCase("F16").owned.empty());
  EXPECT_EQ(PackedCase("F16").chunks.size(), 33u * 128 * 2);
}

TEST(PackPart, ExactKeepsTheDequantizedType) {
  EXPECT_EQ(PackedCase("Bf16ValuedExact", Compute::kExact).format.storage, Storage::kBF16);
  EXPECT_EQ(PackedCase("Int4Group", Compute::kExact).format.storage, Storage::kF32);
  EXPECT_EQ(PackedCase("OutliersExact", Compute::kExact).format.storage, Storage::kF32);
}

TEST(PackPart, BlocksSmallerThanTheirScalesAreDense) {
  QuantizedTensor t = std::get<QuantizedTensor>(MatrixCaseNamed("Int4Group").make(33, 128, 1));
  t.block = {1, 1};
  t.scale.assign(33 * 128, 0.5f);
  const Weight weight = t;
  absl::StatusOr<PartImage> image = PackPart(weight, Compute::kFast);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->format.storage, Storage::kF16);
}

TEST(PackPart, WeightsBeyondFloat16StayFloat32) {
  QuantizedTensor t = std::get<QuantizedTensor>(MatrixCaseNamed("Outliers").make(33, 128, 1));
  t.outliers.value[5] = 1e5f;
  const Weight weight = t;
  absl::StatusOr<PartImage> image = PackPart(weight, Compute::kFast);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->format.storage, Storage::kF32);
}

TEST(PackPart, ShortTablesAreRefused) {
  QuantizedTensor t = std::get<QuantizedTensor>(MatrixCaseNamed("Lut4").make(33, 128, 1));
  t.grid.table.pop_back();
  const Weight weight = t;
  EXPECT_EQ(PackPart(weight, Compute::kFast).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd::opencl
