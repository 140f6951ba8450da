#include "quantizers/parameter_record.h"

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "formats/huggingface/write_journal.h"

namespace quantd {
namespace {

// Escaped texts hold none.
constexpr char kSeparator = '|';
constexpr size_t kFields = 7;  // before the warnings

std::string Escaped(absl::string_view text) {
  return absl::StrReplaceAll(absl::CEscape(text), {{"|", "\\174"}});
}

// Enough digits to read the same value again.
std::string Exact(double value) { return absl::StrFormat("%.17g", value); }

std::string Checksum(absl::string_view name, absl::string_view fields) {
  const std::string all = absl::StrCat(name, "|", fields);
  return absl::StrCat(absl::Hex(ChecksumOf(std::as_bytes(std::span(all))), absl::kZeroPad16));
}

}  // namespace

std::string RecordText(const ParameterRecord& record) {
  const LayerReport& layer = record.layer;
  std::string fields =
      absl::StrJoin({Escaped(layer.scheme), absl::StrCat(layer.rows), absl::StrCat(layer.cols),
                     Exact(layer.bits_per_weight), Exact(layer.relative_error),
                     Exact(layer.output_error), Exact(layer.rounding_error)},
                    "|");
  for (const std::string& warning : record.warnings) {
    absl::StrAppend(&fields, "|", Escaped(warning));
  }
  return absl::StrCat(Checksum(layer.name, fields), "|", fields);
}

std::optional<ParameterRecord> ParseRecord(absl::string_view name, absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(kSeparator, 1));
  if (parts.first != Checksum(name, parts.second)) return std::nullopt;
  std::vector<std::string> fields = absl::StrSplit(parts.second, kSeparator);
  if (fields.size() < kFields) return std::nullopt;
  ParameterRecord record;
  LayerReport& layer = record.layer;
  layer.name = std::string(name);
  if (!absl::CUnescape(fields[0], &layer.scheme) || !absl::SimpleAtoi(fields[1], &layer.rows) ||
      !absl::SimpleAtoi(fields[2], &layer.cols) ||
      !absl::SimpleAtod(fields[3], &layer.bits_per_weight) ||
      !absl::SimpleAtod(fields[4], &layer.relative_error) ||
      !absl::SimpleAtod(fields[5], &layer.output_error) ||
      !absl::SimpleAtod(fields[6], &layer.rounding_error)) {
    return std::nullopt;
  }
  for (size_t i = kFields; i < fields.size(); ++i) {
    if (!absl::CUnescape(fields[i], &record.warnings.emplace_back())) return std::nullopt;
  }
  return record;
}

}  // namespace quantd
