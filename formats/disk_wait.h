// System calls that wait for the disk: seconds where it is busy, and no signal ends them.
#ifndef QUANTD_FORMATS_DISK_WAIT_H_
#define QUANTD_FORMATS_DISK_WAIT_H_

#include <functional>

#include "core/stop_request.h"

namespace quantd {

// Runs `call` in a thread of its own and waits for it. False when `give_up` said not to wait any
// longer, asked every 10 ms: then the call goes on alone, so that it must own all that it touches.
bool WaitForDisk(std::function<void()> call, const StopRequest& give_up);

// fsync of a duplicate of `fd`. 0 or the error number; ECANCELED when `stopped` ended the wait.
int SyncOrStop(int fd, const StopRequest& stopped);

}  // namespace quantd

#endif  // QUANTD_FORMATS_DISK_WAIT_H_
