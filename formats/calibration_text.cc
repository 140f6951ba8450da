#include "formats/calibration_text.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "formats/huggingface/strict_json.h"
#include "formats/huggingface/utf8.h"

namespace quantd {
namespace {

// The first byte that is part of no character.
size_t FirstInvalidByte(absl::string_view text) {
  size_t valid = 0, end = text.size();  // text[0, valid) is UTF-8, text[0, end) is not
  while (end - valid > 1) {
    size_t middle = valid + (end - valid) / 2;
    // Not inside a character.
    while (middle > valid && (static_cast<unsigned char>(text[middle]) & 0xc0) == 0x80) --middle;
    if (middle == valid) return valid;
    if (IsValidUtf8(text.substr(valid, middle - valid))) {
      valid = middle;
    } else {
      end = middle;
    }
  }
  return valid;
}

absl::StatusOr<std::string> TextOf(absl::string_view line, size_t number) {
  const std::string where = absl::StrCat("calibration text, line ", number);
  ASSIGN_OR_RETURN(const nlohmann::json record, ParseStrictJsonObject(line, where));
  const auto text = record.find("text");
  if (text == record.end() || !text->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": expected an object with a string \"text\""));
  }
  return text->get<std::string>();
}

}  // namespace

absl::StatusOr<CalibrationText> ParseCalibrationText(absl::string_view text) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");
  if (absl::StripAsciiWhitespace(text).empty()) {
    return absl::InvalidArgumentError("the calibration text is empty");
  }
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the calibration text is not UTF-8: byte ", FirstInvalidByte(text)));
  }
  CalibrationText parsed;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    // Prose may begin with a brace.
    if (!parsed.is_records && (line.front() != '{' || !absl::StrContains(line, "\"text\""))) break;
    parsed.is_records = true;
    ASSIGN_OR_RETURN(std::string sample, TextOf(line, number));
    parsed.samples.push_back(std::move(sample));
  }
  if (!parsed.is_records) parsed.samples = {std::string(text)};
  return parsed;
}

}  // namespace quantd
