#include "service/auth.h"

#include <gtest/gtest.h>

namespace quantd {
namespace {

constexpr char kTable[] =
    "# who may do what\n"
    "admin-token-1\n"
    "  reader-token read \n"
    "infer-token\tinfer\r\n"
    // SHA-256 of "hashed-token".
    "sha256:550643f45e135491c47bea94823b37278d5dd91375b285d44001d005d1603a33 admin\n";

class TokenTableTest : public testing::Test {
 protected:
  TokenTableTest() { table_ = *TokenTable::Parse(kTable); }
  absl::StatusCode Code(std::vector<absl::string_view> authorization, Access needed) {
    return table_->Check(authorization, needed).code();
  }
  std::unique_ptr<TokenTable> table_;
};

TEST_F(TokenTableTest, AcceptsKnownTokensUpToTheirRole) {
  EXPECT_EQ(Code({"Bearer admin-token-1"}, Access::kAdmin), absl::StatusCode::kOk);
  EXPECT_EQ(Code({"Bearer hashed-token"}, Access::kAdmin), absl::StatusCode::kOk);
  EXPECT_EQ(Code({"Bearer reader-token"}, Access::kRead), absl::StatusCode::kOk);
  EXPECT_EQ(Code({"Bearer reader-token"}, Access::kInfer), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Code({"Bearer infer-token"}, Access::kInfer), absl::StatusCode::kOk);
  EXPECT_EQ(Code({"Bearer infer-token"}, Access::kAdmin), absl::StatusCode::kPermissionDenied);
}

TEST_F(TokenTableTest, RefusesEverythingElseWithOneText) {
  const std::string huge = "Bearer " + std::string(1 << 20, 'a');
  const std::vector<std::vector<absl::string_view>> wrong = {
      {},
      {""},
      {"Bearer "},
      {"Bearer wrong"},
      {"Bearer admin-token-2"},
      {"Bearer ADMIN-TOKEN-1"},
      {"bearer admin-token-1"},
      {"Basic admin-token-1"},
      {"admin-token-1"},
      {"Bearer admin-token-1 "},
      {huge},
      {"Bearer admin-token-1", "Bearer admin-token-1"}};
  const absl::Status first = table_->Check(wrong[0], Access::kRead);
  EXPECT_EQ(first.code(), absl::StatusCode::kUnauthenticated);
  for (const auto& authorization : wrong) {
    EXPECT_EQ(table_->Check(authorization, Access::kRead), first);
  }
}

TEST_F(TokenTableTest, LivenessNeedsNoToken) {
  EXPECT_EQ(Code({}, Access::kPublic), absl::StatusCode::kOk);
}

TEST(TokenTable, ParseNamesTheLineButNotTheToken) {
  for (const char* text : {"good-token-1\nshort\n", "good-token-1\nsecret-token boss\n",
                           "good-token-1\nsecret-token read more\n", "good-token-1\nsha256:12\n"}) {
    const auto table = TokenTable::Parse(text);
    ASSERT_FALSE(table.ok()) << text;
    EXPECT_NE(table.status().message().find("line 2"), absl::string_view::npos);
    EXPECT_EQ(table.status().message().find("secret"), absl::string_view::npos);
  }
  EXPECT_FALSE(TokenTable::Parse("# nothing\n\n").ok());
}

}  // namespace
}  // namespace quantd
