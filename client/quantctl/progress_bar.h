// Progress on standard error: one line that redraws itself on a terminal, plain lines otherwise.
#ifndef QUANTD_CLIENT_QUANTCTL_PROGRESS_BAR_H_
#define QUANTD_CLIENT_QUANTCTL_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace quantd::ctl {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // ends the line

  // `note` is shown behind rate and ETA. A negative ETA is not known yet.
  void Update(int64_t done, int64_t total, const std::string& rate, absl::Duration eta,
              const std::string& note);

 private:
  void Redraw(const std::string& line);
  void PlainLine(const std::string& line, int percent, bool finished);

  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  int last_percent_ = -1;
  absl::Time last_line_ = absl::InfinitePast();
};

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_PROGRESS_BAR_H_
