#include "service/open_inference/attention_mask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantd {
namespace {

using ::testing::ElementsAre;

// A mask as a request carries it, with the storage it points into.
struct Mask {
  explicit Mask(std::vector<int64_t> shape, const std::vector<int64_t>& values) {
    contents.mutable_int64_contents()->Add(values.begin(), values.end());
    tensor = {.name = "attention_mask",
              .datatype = "INT64",
              .shape = std::move(shape),
              .elements = static_cast<int64_t>(values.size()),
              .raw = nullptr,
              .contents = &contents};
  }
  inference::InferTensorContents contents;
  InputTensor tensor;
};

TEST(AttentionMask, PaddingAtEitherEnd) {
  const Mask mask({3, 4}, {0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0});
  const auto runs = ReadAttentionMask(&mask.tensor, 3, 4);
  ASSERT_TRUE(runs.ok()) << runs.status();
  EXPECT_EQ((*runs)[0].first, 2);
  EXPECT_EQ((*runs)[0].count, 2);
  EXPECT_EQ((*runs)[1].first, 0);
  EXPECT_EQ((*runs)[1].count, 3);
  EXPECT_EQ((*runs)[2].first, 1);
  EXPECT_EQ((*runs)[2].count, 2);
  EXPECT_EQ(ReadAttentionMask(nullptr, 1, 4)->at(0).count, 4);
}

TEST(AttentionMask, RefusesWhatItCannotMean) {
  const auto code = [](std::vector<int64_t> shape, const std::vector<int64_t>& values) {
    const Mask mask(std::move(shape), values);
    return ReadAttentionMask(&mask.tensor, 1, 3).status().code();
  };
  EXPECT_EQ(code({1, 3}, {1, 0, 1}), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code({1, 3}, {0, 0, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 3}, {1, 2, 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({3, 1}, {1, 1, 1}), absl::StatusCode::kInvalidArgument);
}

TEST(AttentionMask, RestoresLeftPadding) {
  // Widths of 3, two numbers a position; the second row lost one position, the third two.
  std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const TokenRun runs[] = {{0, 3}, {1, 2}, {2, 1}};
  RestoreLeftPadding(runs, 3, 2, values);
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 0, 0, 0, 0, 11, 12));
  std::vector<float> unpadded = {1, 2};
  RestoreLeftPadding(std::vector<TokenRun>{{0, 1}, {0, 1}}, 1, 1, unpadded);
  EXPECT_THAT(unpadded, ElementsAre(1, 2));
}

}  // namespace
}  // namespace quantd
