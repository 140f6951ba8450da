#include "client/quantctl/progress_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

constexpr int kBarWidth = 24;
// Without a terminal: a line per tenth, or per this time, whichever comes first.
constexpr absl::Duration kPlainInterval = absl::Seconds(10);

size_t TerminalWidth() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputc('\n', stderr);
}

void ProgressBar::Update(int64_t done, int64_t total, const std::string& rate, absl::Duration eta,
                         const std::string& note) {
  const double part = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const int percent = static_cast<int>(part * 100);
  std::string tail = absl::StrCat(" ", percent, "%  ", done, "/", total);
  if (!rate.empty()) absl::StrAppend(&tail, "  ", rate);
  if (eta >= absl::ZeroDuration()) absl::StrAppend(&tail, "  ETA ", HumanDuration(eta));
  if (!note.empty()) absl::StrAppend(&tail, "  ", note);
  if (!terminal_) {
    PlainLine(absl::StrCat(label_, tail), percent, done == total);
    return;
  }
  const int filled = static_cast<int>(part * kBarWidth);
  Redraw(absl::StrCat(label_, " [", std::string(filled, '#'), std::string(kBarWidth - filled, '.'),
                      "]", tail));
}

void ProgressBar::Redraw(const std::string& line) {
  const std::string cut = line.substr(0, TerminalWidth() - 1);
  std::fprintf(stderr, "\r\033[K%s", cut.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressBar::PlainLine(const std::string& line, int percent, bool finished) {
  const absl::Time now = absl::Now();
  if (percent / 10 == last_percent_ / 10 && last_percent_ >= 0 &&
      now - last_line_ < kPlainInterval && !(finished && last_percent_ < 100)) {
    return;
  }
  last_percent_ = percent;
  last_line_ = now;
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace quantd::ctl
