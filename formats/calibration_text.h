// Calibration texts as people have them: plain text, or JSON lines with a "text" each.
#ifndef QUANTD_FORMATS_CALIBRATION_TEXT_H_
#define QUANTD_FORMATS_CALIBRATION_TEXT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

struct CalibrationText {
  bool is_records = false;           // JSON lines: every record is a sample of its own
  std::vector<std::string> samples;  // plain text: one, the whole text
};

// JSON lines when the first line that is not blank begins with a brace and has a "text". Then all
// must be objects with a string of that name. INVALID_ARGUMENT for a text that is empty, blank, not
// UTF-8 (naming the byte), or a line that is no such object (naming it).
absl::StatusOr<CalibrationText> ParseCalibrationText(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_FORMATS_CALIBRATION_TEXT_H_
