// A real quantd process on a Unix socket, over a model root made for the test.
#ifndef QUANTD_TESTS_CLIENT_SERVER_PROCESS_H_
#define QUANTD_TESTS_CLIENT_SERVER_PROCESS_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace quantd {

class ServerProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/quantd-client-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    home_ = name;
    std::filesystem::create_directory(root());
  }
  void TearDown() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    std::filesystem::remove_all(home_);
  }

  std::filesystem::path root() const { return home_ / "root"; }
  std::string address() const { return "unix:" + (home_ / "socket").string(); }
  bool Exists(const std::string& name) const { return std::filesystem::exists(root() / name); }

  // One of the checkpoints that tests/process/checkpoints.py makes (ctest: make_checkpoints).
  void CopyModel(const std::string& name) {
    const std::filesystem::path source = std::filesystem::path(QUANTD_TEST_CHECKPOINTS) / name;
    ASSERT_TRUE(std::filesystem::exists(source)) << "run the test make_checkpoints first";
    std::filesystem::copy(source, root() / name, std::filesystem::copy_options::recursive);
  }

  // Returns when the port answers.
  void Start() {
    const std::string root_path = root().string(), listen = address();
    const char* argv[] = {QUANTD_BINARY,
                          "--model-root",
                          root_path.c_str(),
                          "--listen",
                          listen.c_str(),
                          "--threads",
                          "1",
                          "--metrics-listen",
                          "off",
                          "--log-level",
                          "error",
                          "--no-self-probe",
                          nullptr};
    pid_ = fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      execv(argv[0], const_cast<char**>(argv));
      _exit(127);
    }
    grpc::ChannelArguments arguments;  // the socket is not there yet: look again soon
    for (const char* backoff :
         {GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
          GRPC_ARG_MAX_RECONNECT_BACKOFF_MS}) {
      arguments.SetInt(backoff, 20);
    }
    const auto channel =
        grpc::CreateCustomChannel(listen, grpc::InsecureChannelCredentials(), arguments);
    ASSERT_TRUE(
        channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::minutes(1)));
  }
  void Terminate() { kill(pid_, SIGTERM); }
  // The exit code; -1 for an end by a signal.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  int Stop() {
    Terminate();
    return Wait();
  }

  std::filesystem::path home_;
  pid_t pid_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_CLIENT_SERVER_PROCESS_H_
