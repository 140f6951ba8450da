// Checked reading of GGUF keys: every message names the key, what was found and what was expected.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_METADATA_FIELDS_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_METADATA_FIELDS_H_

#include <optional>
#include <string>

#include "formats/gguf/gguf.h"

namespace quantd::gguf {

// An integer within [low, high]; nullopt when absent.
absl::StatusOr<std::optional<int64_t>> IntegerIn(const GgufMetadata& metadata,
                                                 absl::string_view key, int64_t low, int64_t high);
// The same for a key that must be there.
absl::StatusOr<int64_t> RequiredInteger(const GgufMetadata& metadata, absl::string_view key,
                                        int64_t low, int64_t high);
// A finite number above 0 and at most `high`; nullopt when absent.
absl::StatusOr<std::optional<double>> PositiveNumber(const GgufMetadata& metadata,
                                                     absl::string_view key, double high);
// Text from a file, fit for a message: escaped, cut, quoted.
std::string QuotedName(absl::string_view text);

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_METADATA_FIELDS_H_
