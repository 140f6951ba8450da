#include "formats/disk_wait.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <future>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

namespace quantd {

bool WaitForDisk(std::function<void()> call, const StopRequest& give_up) {
  constexpr std::chrono::milliseconds kStep(10);
  auto work = std::make_shared<std::packaged_task<void()>>(std::move(call));
  const std::future<void> done = work->get_future();
  try {
    std::thread([work] { (*work)(); }).detach();
  } catch (const std::system_error&) {  // no thread to be had
    (*work)();
  }
  while (done.wait_for(kStep) != std::future_status::ready) {
    if (give_up && give_up()) return false;
  }
  return true;
}

int SyncOrStop(int fd, const StopRequest& stopped) {
  // Of its own: the caller may close its descriptor while the call goes on.
  const int own = stopped ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
  if (own < 0) return fsync(fd) == 0 ? 0 : errno;
  if (stopped()) {
    close(own);
    return ECANCELED;
  }
  const auto error = std::make_shared<int>(0);
  const auto sync = [own, error] {
    if (fsync(own) != 0) *error = errno;
    close(own);
  };
  return WaitForDisk(sync, stopped) ? *error : ECANCELED;
}

}  // namespace quantd
