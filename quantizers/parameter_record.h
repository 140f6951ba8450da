// What a job's report says of one written parameter, as a line of text for the output's journal: a
// job that was interrupted reports all of its parameters.
#ifndef QUANTD_QUANTIZERS_PARAMETER_RECORD_H_
#define QUANTD_QUANTIZERS_PARAMETER_RECORD_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "quantizers/pipeline.h"

namespace quantd {

struct ParameterRecord {
  LayerReport layer;
  std::vector<std::string> warnings;  // given since the parameter before was written
};

// Printable ASCII in one line, with a checksum over the layer's name too.
std::string RecordText(const ParameterRecord& record);
// The same values again; nullopt for a damaged text, and for one of another parameter.
std::optional<ParameterRecord> ParseRecord(absl::string_view name, absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PARAMETER_RECORD_H_
