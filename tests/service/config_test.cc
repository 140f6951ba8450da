#include "service/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace quantd {
namespace {

absl::StatusOr<std::variant<ServerConfig, PrintAndExit>> Parse(std::vector<const char*> args) {
  args.insert(args.begin(), "quantd");
  return ParseCommandLine(static_cast<int>(args.size()), args.data());
}

std::string WriteFile(const std::string& text) {
  const std::string path = testing::TempDir() + "/quantd_config.json";
  std::ofstream(path) << text;
  return path;
}

TEST(Config, DefaultsListenOnLoopbackOnly) {
  const auto parsed = Parse({"--model-root", "/models"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& config = std::get<ServerConfig>(*parsed);
  EXPECT_EQ(config.listen, "127.0.0.1:8001");
  EXPECT_EQ(config.metrics_listen, "127.0.0.1:8002");
  EXPECT_TRUE(config.is_local());
}

TEST(Config, FlagsOverEnvironmentOverFile) {
  const std::string file =
      WriteFile(R"({"model-root": "/file", "threads": 3, "device": "auto", "memory_limit": 1000})");
  setenv("QUANTD_THREADS", "5", 1);
  setenv("QUANTD_DEVICE", "opencl", 1);
  const auto parsed = Parse({"--config", file.c_str(), "--device", "cpu"});
  unsetenv("QUANTD_THREADS");
  unsetenv("QUANTD_DEVICE");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& config = std::get<ServerConfig>(*parsed);
  EXPECT_EQ(config.model_root, "/file");
  EXPECT_EQ(config.threads, 5);
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(config.memory_limit, 1000u);
}

TEST(Config, BytesMayHaveUnits) {
  const auto parsed = Parse({"--model-root", "/m", "--memory-limit", "4GiB"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(std::get<ServerConfig>(*parsed).memory_limit, uint64_t{4} << 30);
}

TEST(Config, RefusesWrongSettingsInOneLine) {
  const std::string unknown = WriteFile(R"({"model_root": "/m", "nonsense": 1})");
  const std::vector<std::vector<const char*>> wrong = {
      {},
      {"--nonsense"},
      {"--model-root", "/m", "--threads", "many"},
      {"--model-root", "/m", "--threads", "-1"},
      {"--model-root", "/m", "--listen", "nowhere"},
      {"--model-root", "/m", "--listen", "127.0.0.1:99999"},
      {"--model-root", "/m", "--listen", "unix:"},
      {"--model-root", "/m", "--tls-cert", "a.pem"},
      {"--model-root", "/m", "--tls-client-ca", "a.pem"},
      {"--model-root", "/m", "--log-level", "loud"},
      {"--model-root", "/m", "--config", "/does/not/exist"},
      {"--config", unknown.c_str()},
      // Reachable from outside without any protection.
      {"--model-root", "/m", "--listen", "0.0.0.0:8001"},
      {"--model-root", "/m", "--listen", "[::]:8001"}};
  for (const auto& args : wrong) {
    const auto parsed = Parse(args);
    ASSERT_FALSE(parsed.ok()) << (args.empty() ? "" : args.back());
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(parsed.status().message().find('\n'), absl::string_view::npos);
  }
}

TEST(Config, OutsideNeedsProtectionOrTheExplicitFlag) {
  EXPECT_TRUE(
      Parse({"--model-root", "/m", "--listen", "0.0.0.0:8001", "--auth-token-file", "t"}).ok());
  EXPECT_TRUE(
      Parse({"--model-root", "/m", "--listen", "0.0.0.0:8001", "--insecure-listen-anywhere"}).ok());
  EXPECT_TRUE(Parse({"--model-root", "/m", "--listen", "unix:/run/quantd.sock"}).ok());
  EXPECT_TRUE(Parse({"--model-root", "/m", "--listen", "[::1]:0"}).ok());
}

TEST(Config, PrintsAndExits) {
  for (const char* flag : {"--help", "--version", "--print-config"}) {
    const auto parsed = Parse({"--model-root", "/m", flag});
    ASSERT_TRUE(parsed.ok()) << flag;
    EXPECT_TRUE(std::holds_alternative<PrintAndExit>(*parsed)) << flag;
  }
}

}  // namespace
}  // namespace quantd
