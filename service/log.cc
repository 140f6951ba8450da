#include "service/log.h"

#include <poll.h>
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quantd {
namespace {

constexpr size_t kQueueLines = 8192;
constexpr size_t kMaxLine = 4096;  // PIPE_BUF: a pipe that polls writable takes it without blocking
constexpr size_t kMaxString = 512;

// Standard error, but a line is dropped rather than waiting for a reader that does not read.
class NonBlockingStderr final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    pollfd target{STDERR_FILENO, POLLOUT, 0};
    if (poll(&target, 1, 0) != 1 || (target.revents & POLLOUT) == 0) {
      return;
    }
    std::string line(message.payload.data(), std::min(message.payload.size(), kMaxLine - 1));
    line.push_back('\n');
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  }
  void flush_() override {}
};

std::atomic<bool> g_started{false};
std::atomic<int> g_level{static_cast<int>(LogLevel::kOff)};

std::shared_ptr<spdlog::logger>& Logger() {
  static auto* logger = new std::shared_ptr<spdlog::logger>();
  return *logger;
}

constexpr absl::string_view kLevelNames[] = {"trace", "debug", "info", "warning", "error", "off"};

// JSON string, ASCII only, so that no terminal or parser is surprised.
void AppendString(std::string& out, absl::string_view text) {
  out.push_back('"');
  for (const char raw : text.substr(0, kMaxString)) {
    const auto c = static_cast<unsigned char>(raw);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(raw);
    } else if (c < 0x20 || c >= 0x7F) {
      absl::StrAppend(&out, "\\u00", absl::Hex(c, absl::kZeroPad2));
    } else {
      out.push_back(raw);
    }
  }
  out.push_back('"');
}

struct AppendValue {
  std::string& out;
  void operator()(const std::string& value) const { AppendString(out, value); }
  void operator()(int64_t value) const { absl::StrAppend(&out, value); }
  void operator()(double value) const {
    absl::StrAppend(&out, std::isfinite(value) ? absl::StrCat(value) : "null");
  }
  void operator()(bool value) const { absl::StrAppend(&out, value ? "true" : "false"); }
};

}  // namespace

void StartLog(absl::string_view level) {
  SetLogLevel(level);
  if (g_started.exchange(true)) {
    return;
  }
  spdlog::init_thread_pool(kQueueLines, 1);
  Logger() = std::make_shared<spdlog::async_logger>("quantd", std::make_shared<NonBlockingStderr>(),
                                                    spdlog::thread_pool(),
                                                    spdlog::async_overflow_policy::overrun_oldest);
  Logger()->set_level(spdlog::level::trace);
}

void FlushLog() {
  if (g_started) {
    // The queue has one reader; it is empty within this time unless nobody reads standard error.
    for (int i = 0; i < 50 && spdlog::thread_pool()->queue_size() > 0; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
}

bool SetLogLevel(absl::string_view level) {
  for (size_t i = 0; i < std::size(kLevelNames); ++i) {
    if (level == kLevelNames[i]) {
      g_level = static_cast<int>(i);
      return true;
    }
  }
  return false;
}

std::string GetLogLevel() { return std::string(kLevelNames[g_level]); }

bool LogEnabled(LogLevel level) { return g_started && static_cast<int>(level) >= g_level; }

void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  if (!LogEnabled(level)) {
    return;
  }
  std::string line = absl::StrCat(
      "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
      "\",\"level\":\"", kLevelNames[static_cast<int>(level)], "\",\"event\":");
  AppendString(line, event);
  for (const LogField& field : fields) {
    line.push_back(',');
    AppendString(line, field.key);
    line.push_back(':');
    const size_t before = line.size();
    std::visit(AppendValue{line}, field.value);
    if (line.size() > kMaxLine - 2) {  // keep the line valid JSON
      line.resize(before);
      line += "null";
      break;
    }
  }
  line.push_back('}');
  Logger()->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace quantd
