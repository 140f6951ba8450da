// Notices when the listening port has gone deaf. gRPC 1.51 never accepts again after it ran out of
// file descriptors (CVE-2023-4785); the remedy is to end the process so that it is restarted.
#ifndef QUANTD_SERVICE_SELF_PROBE_H_
#define QUANTD_SERVICE_SELF_PROBE_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace quantd {

class SelfProbe {
 public:
  // Connects to `address` ("HOST:PORT" with the real port, or "unix:PATH") every two seconds.
  explicit SelfProbe(std::string address);
  ~SelfProbe();

  // False after three connections in a row that got no answer within two seconds each.
  bool healthy() const { return healthy_; }

 private:
  void Run();

  const std::string address_;
  std::atomic<bool> healthy_{true};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

// One attempt: a fresh connection that sends an HTTP/2 preface and gets any answer, or is closed by
// the server (TLS), within `timeout_ms`.
bool AnswersFreshConnection(const std::string& address, int timeout_ms);

}  // namespace quantd

#endif  // QUANTD_SERVICE_SELF_PROBE_H_
