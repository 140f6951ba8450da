// Bearer tokens and what they may do.
#ifndef QUANTD_SERVICE_AUTH_H_
#define QUANTD_SERVICE_AUTH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

// What a call needs; each includes the ones before.
enum class Access {
  kPublic,  // liveness only: no token needed
  kRead,    // list, get, inspect
  kInfer,   // generate, embed, score, tokenize
  kAdmin,   // quantize, load, unload, cancel, delete, change settings
};

// The tokens of --auth-token-file. Only their SHA-256 digests are kept in memory.
class TokenTable {
 public:
  // One token per line: `TOKEN [read|infer|admin]`, admin by default; `sha256:HEX` stands for a
  // token with that digest; empty lines and lines that start with # are skipped. INVALID_ARGUMENT
  // names the line (never its content).
  static absl::StatusOr<std::unique_ptr<TokenTable>> Parse(absl::string_view text);
  static absl::StatusOr<std::unique_ptr<TokenTable>> ReadFile(const std::string& path);

  // `authorization`: the values of that metadata key. UNAUTHENTICATED, always with the same text,
  // unless there is exactly one "Bearer TOKEN" with a known token; PERMISSION_DENIED when its role
  // does not reach `needed`. Takes the same time whichever token or byte is wrong.
  absl::Status Check(const std::vector<absl::string_view>& authorization, Access needed) const;

 private:
  struct Entry {
    std::array<uint8_t, 32> digest;
    Access role;
  };
  std::vector<Entry> entries_;
};

absl::string_view AccessName(Access access);

}  // namespace quantd

#endif  // QUANTD_SERVICE_AUTH_H_
