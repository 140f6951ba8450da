// A real server on a real port over a model root made for the test.
#ifndef QUANTD_TESTS_SERVICE_TEST_SERVER_H_
#define QUANTD_TESTS_SERVICE_TEST_SERVER_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "service/server.h"
#include "tests/test_data.h"

namespace quantd {

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::path(testing::TempDir()) /
            (std::string("quantd_") + info->test_suite_name() + "_" + info->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    Copy("tiny-llama", "tiny");
    config_.model_root = root_.string();
    config_.listen = "127.0.0.1:0";
    if (config_.metrics_listen == ServerConfig().metrics_listen) config_.metrics_listen = "off";
    config_.threads = 1;
    config_.self_probe = false;
    Start();
  }

  void TearDown() override {
    channel_.reset();
    server_.reset();
    std::filesystem::remove_all(root_);
  }

  // A checkpoint of tests/data/golden as a model of the root.
  void Copy(const std::string& golden, const std::string& name) {
    std::filesystem::copy(TestData("golden/" + golden), root_ / name,
                          std::filesystem::copy_options::recursive);
    std::filesystem::permissions(root_ / name, std::filesystem::perms::owner_all,
                                 std::filesystem::perm_options::add);
  }

  void Start() {
    auto server = Server::Start(config_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = Connect();
  }

  std::shared_ptr<grpc::Channel> Connect() {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  std::filesystem::path root_;
  ServerConfig config_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_SERVICE_TEST_SERVER_H_
