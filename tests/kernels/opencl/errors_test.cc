#include <gmock/gmock.h>

#include "kernels/opencl/backend.h"
#include "kernels/opencl/opencl_backend.h"
#include "tests/kernels/opencl/fixture.h"
#include "tests/kernels/opencl/matrices.h"

namespace quantd::opencl {
namespace {

using ::testing::HasSubstr;

class ErrorsTest : public OpenClTest {
 protected:
  // The device under test with limits that the test lowers.
  static Device TheDevice() { return FindDevices().value().front(); }
};

TEST_F(ErrorsTest, DevicesAreListedAndOpened) {
  const std::vector<DeviceInfo> infos = ListOpenClDevices();
  ASSERT_FALSE(infos.empty());
  EXPECT_EQ(infos[0].id, "opencl:0");
  EXPECT_GT(infos[0].memory_bytes, 0u);
  EXPECT_EQ(backend().info().memory_bytes, infos[0].memory_bytes);
  EXPECT_EQ(backend().info().description, infos[0].description);
}

TEST_F(ErrorsTest, UnknownIndexIsAFailedPrecondition) {
  for (const int index : {-1, 1000}) {
    const absl::Status status = CreateOpenClBackend(index).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(index)));
  }
}

TEST_F(ErrorsTest, BuildFailureCarriesTheCutLogAndIsRemembered) {
  const Device device = TheDevice();
  auto queue = Queue::Create(device);
  ASSERT_OK(queue.status());
  std::string broken = "__kernel void Broken(__global float* y) { y[0] = no_such_name; }\n";
  for (int i = 0; i < 500; ++i) broken += "int f" + std::to_string(i) + "(void) { return oops; }\n";
  const char* const sources[] = {broken.c_str()};
  ProgramCache cache(queue->context(), device.id);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const absl::Status status = cache.Get({"Broken", sources, ""}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("Broken"));
    EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("/")));
    EXPECT_LT(status.message().size(), 5000u);
  }
  EXPECT_EQ(cache.programs_built(), 1u);
}

TEST_F(ErrorsTest, MemoryLimitsAreResourceExhausted) {
  Device device = TheDevice();
  device.max_allocation = 4096;
  device.global_memory = 10000;
  auto small = OpenClBackend::Create(device, "opencl:0");
  ASSERT_OK(small.status());
  EXPECT_EQ((*small)->Allocate(1025, 1).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ((*small)->CreateKvCache({1, 1, 1, 1025}).status().code(),
            absl::StatusCode::kResourceExhausted);
  const Weight weight = MatrixCaseNamed("F32").make(129, 129, 1);
  const Weight* part = &weight;
  EXPECT_EQ((*small)->Pack({&part, 1}, {}).status().code(), absl::StatusCode::kResourceExhausted);
  {
    auto first = (*small)->Allocate(1024, 1);
    auto second = (*small)->Allocate(1024, 1);
    ASSERT_OK(first.status());
    ASSERT_OK(second.status());
    const absl::Status third = (*small)->Allocate(1024, 1).status();
    EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(third.message()), HasSubstr("8192"));
    EXPECT_EQ((*small)->info().free_bytes, 10000u - 8192u);
  }
  // What failed has left nothing behind, and what went is usable again.
  EXPECT_EQ((*small)->info().free_bytes, 10000u);
  EXPECT_TRUE((*small)->Allocate(1024, 1).ok());
}

TEST_F(ErrorsTest, AbsurdSizesAreRefused) {
  EXPECT_EQ(backend().Allocate(int64_t{1} << 40, int64_t{1} << 40).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend().Allocate(-1, 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend().Allocate(int64_t{1} << 40, 4).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(ErrorsTest, BadWeightsAreInvalidArguments) {
  QuantizedTensor broken = std::get<QuantizedTensor>(MatrixCaseNamed("Int4Group").make(31, 33, 1));
  broken.scale.pop_back();
  const Weight weights[] = {broken, Tensor{DType::kF32, {2, 2}, {}}, Tensor{DType::kF32, {4}, {}},
                            MakeTensor(DType::kF32, {0, 4})};
  for (const Weight& weight : weights) {
    const Weight* part = &weight;
    EXPECT_EQ(backend().Pack({&part, 1}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const Weight wide = MatrixCaseNamed("F32").make(3, 33, 1);
  const Weight narrow = MatrixCaseNamed("F32").make(3, 31, 1);
  const Weight* parts[] = {&wide, &narrow};
  EXPECT_EQ(backend().Pack(parts, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

// Devices with small work-groups run the same kernels.
TEST_F(ErrorsTest, SmallWorkGroupsGiveTheSameProducts) {
  const Weight weight = MatrixCaseNamed("Int4Asymmetric").make(33, 129, 1);
  const Weight* part = &weight;
  const std::vector<float> x = RandomFloats(17 * 129, 2);
  std::vector<std::vector<float>> results;
  for (const size_t limit : {size_t{4096}, size_t{70}, size_t{8}, size_t{1}}) {
    Device device = TheDevice();
    device.is_cpu = false;
    device.max_work_group = std::min(limit, device.max_work_group);
    auto limited = OpenClBackend::Create(device, "opencl:0");
    ASSERT_OK(limited.status());
    auto packed = (*limited)->Pack({&part, 1}, {});
    auto input = (*limited)->Allocate(17, 129);
    auto qkv = (*limited)->Allocate(17, 33);
    auto output = (*limited)->Allocate(17, 11);
    ASSERT_OK(packed.status());
    ASSERT_OK((*limited)->Upload(x, **input));
    const SequenceRows rows[] = {{nullptr, 0, 17, 0}};
    for (const int64_t tokens : {int64_t{1}, int64_t{17}}) {
      ASSERT_OK((*limited)->Linear({.weight = packed->get(),
                                    .norm = {},
                                    .x = input->get(),
                                    .tokens = tokens,
                                    .y = qkv->get()}));
    }
    AttentionArgs args{.heads = 1,
                       .kv_heads = 1,
                       .head_dim = 11,
                       .scale = 1.0f,
                       .qkv = qkv->get(),
                       .sequences = rows,
                       .out = output->get()};
    ASSERT_OK((*limited)->Attention(args));
    std::vector<float> y(17 * 11);
    ASSERT_OK((*limited)->Download(**output, 0, 17, y));
    results.push_back(y);
  }
  for (const std::vector<float>& result : results) {
    for (size_t i = 0; i < result.size(); ++i) ASSERT_NEAR(result[i], results[0][i], 1e-5) << i;
  }
}

TEST(ClStatus, CodesMeanWhatTheyShould) {
  EXPECT_TRUE(ToStatus(CL_SUCCESS, "x").ok());
  EXPECT_EQ(ToStatus(CL_MEM_OBJECT_ALLOCATION_FAILURE, "x").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ToStatus(CL_OUT_OF_RESOURCES, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ToStatus(CL_OUT_OF_RESOURCES, "x", ClPhase::kWait).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(ToStatus(CL_DEVICE_NOT_AVAILABLE, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ToStatus(-9999, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ToStatus(CL_INVALID_KERNEL_ARGS, "x").code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(ToStatus(CL_DEVICE_NOT_AVAILABLE, "add").message()),
              HasSubstr("failed to add: CL_DEVICE_NOT_AVAILABLE"));
}

}  // namespace
}  // namespace quantd::opencl
