#include "service/self_probe.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/match.h"

namespace quantd {
namespace {

constexpr int kTimeoutMs = 2000;
constexpr int kFailures = 3;
// Client preface and an empty SETTINGS frame (RFC 9113, 3.4).
constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
constexpr size_t kPrefaceBytes = 24 + 9;

class Socket {
 public:
  explicit Socket(int family)
      : fd_(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {}
  ~Socket() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

bool WaitFor(int fd, short events, int timeout_ms) {
  pollfd target{fd, events, 0};
  return poll(&target, 1, timeout_ms) == 1;
}

bool Talk(int fd, const sockaddr* address, socklen_t size, int timeout_ms) {
  if (fd < 0 || (connect(fd, address, size) != 0 && errno != EINPROGRESS && errno != EAGAIN)) {
    return false;
  }
  if (!WaitFor(fd, POLLOUT, timeout_ms) ||
      send(fd, kPreface, kPrefaceBytes, MSG_NOSIGNAL) != static_cast<ssize_t>(kPrefaceBytes)) {
    return false;
  }
  char byte;
  return WaitFor(fd, POLLIN, timeout_ms) && (recv(fd, &byte, 1, 0) >= 0 || errno == ECONNRESET);
}

}  // namespace

bool AnswersFreshConnection(const std::string& address, int timeout_ms) {
  if (absl::StartsWith(address, "unix:")) {
    sockaddr_un target{};
    target.sun_family = AF_UNIX;
    std::strncpy(target.sun_path, address.c_str() + 5, sizeof(target.sun_path) - 1);
    const Socket socket(AF_UNIX);
    return Talk(socket.fd(), reinterpret_cast<const sockaddr*>(&target), sizeof(target),
                timeout_ms);
  }
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  if (host == "0.0.0.0" || host == "::" || host == "*") {
    host = "localhost";
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    return true;  // a name that cannot be resolved says nothing about the port
  }
  bool answered = false;
  for (const addrinfo* entry = found; entry != nullptr && !answered; entry = entry->ai_next) {
    const Socket socket(entry->ai_family);
    answered = Talk(socket.fd(), entry->ai_addr, entry->ai_addrlen, timeout_ms);
  }
  freeaddrinfo(found);
  return answered;
}

SelfProbe::SelfProbe(std::string address)
    : address_(std::move(address)), thread_([this] { Run(); }) {}

SelfProbe::~SelfProbe() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void SelfProbe::Run() {
  int failures = 0;
  std::unique_lock lock(mutex_);
  while (
      !wake_.wait_for(lock, std::chrono::milliseconds(kTimeoutMs), [this] { return stopping_; })) {
    lock.unlock();
    failures = AnswersFreshConnection(address_, kTimeoutMs) ? 0 : failures + 1;
    healthy_ = failures < kFailures;
    lock.lock();
  }
}

}  // namespace quantd
