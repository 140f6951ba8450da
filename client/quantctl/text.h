// Text for people: tables, sizes, durations.
#ifndef QUANTD_CLIENT_QUANTCTL_TEXT_H_
#define QUANTD_CLIENT_QUANTCTL_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace quantd::ctl {

std::string HumanBytes(int64_t bytes);           // "143.2 MB"
std::string HumanDuration(absl::Duration time);  // "1m 12s", "0.4s"

// Rows of equal length printed in aligned columns; the first row is the header.
std::string Table(const std::vector<std::vector<std::string>>& rows);

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_TEXT_H_
