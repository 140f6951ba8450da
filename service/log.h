// One JSON line per event on standard error. Never blocks the caller: lines wait in a bounded queue
// and are dropped when the reader is too slow. No prompt, token or absolute path belongs in a line.
#ifndef QUANTD_SERVICE_LOG_H_
#define QUANTD_SERVICE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/string_view.h"

namespace quantd {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError, kOff };

struct LogField {
  absl::string_view key;
  std::variant<std::string, int64_t, double, bool> value;
};

// Call once at start; before it nothing is written. `level` as in --log-level.
void StartLog(absl::string_view level);
// Waits a moment for what is queued.
void FlushLog();
// False for an unknown name.
bool SetLogLevel(absl::string_view level);
std::string GetLogLevel();
bool LogEnabled(LogLevel level);

// {"time": ..., "level": ..., "event": event, key: value, ...}; strings are escaped and cut.
void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields = {});

}  // namespace quantd

#endif  // QUANTD_SERVICE_LOG_H_
