#include "service/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quantd {
namespace {

constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxFileBytes = 1 << 20;

std::array<uint8_t, 32> Digest(absl::string_view text) {
  std::array<uint8_t, 32> out;
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), out.data());
  return out;
}

absl::Status LineError(int line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("token file, line ", line, ": ", what));
}

}  // namespace

absl::string_view AccessName(Access access) {
  switch (access) {
    case Access::kPublic:
      return "public";
    case Access::kRead:
      return "read";
    case Access::kInfer:
      return "infer";
    case Access::kAdmin:
      return "admin";
  }
  return "";
}

absl::StatusOr<std::unique_ptr<TokenTable>> TokenTable::Parse(absl::string_view text) {
  auto table = std::make_unique<TokenTable>();
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') {
      continue;
    }
    const std::vector<absl::string_view> parts =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (parts.size() > 2) {
      return LineError(number, "expected `TOKEN [read|infer|admin]`");
    }
    Entry entry{{}, Access::kAdmin};
    if (parts.size() == 2) {
      if (parts[1] == "read") {
        entry.role = Access::kRead;
      } else if (parts[1] == "infer") {
        entry.role = Access::kInfer;
      } else if (parts[1] != "admin") {
        return LineError(number, "the role must be read, infer or admin");
      }
    }
    absl::string_view token = parts[0];
    if (absl::ConsumePrefix(&token, "sha256:")) {
      bool hex = token.size() == 64;
      for (const char c : token) {
        hex = hex && absl::ascii_isxdigit(c);
      }
      if (!hex) {
        return LineError(number, "sha256: needs 64 hexadecimal digits");
      }
      const std::string bytes = absl::HexStringToBytes(token);
      std::memcpy(entry.digest.data(), bytes.data(), bytes.size());
    } else {
      if (token.size() < 8 || token.size() > kMaxTokenBytes) {
        return LineError(number, "a token has 8 to 4096 characters");
      }
      entry.digest = Digest(token);
    }
    table->entries_.push_back(entry);
  }
  if (table->entries_.empty()) {
    return absl::InvalidArgumentError("the token file holds no token");
  }
  return table;
}

absl::StatusOr<std::unique_ptr<TokenTable>> TokenTable::ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::InvalidArgumentError("--auth-token-file cannot be read");
  }
  std::string text(kMaxFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad() || text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError("--auth-token-file cannot be read or is larger than 1 MiB");
  }
  return Parse(text);
}

absl::Status TokenTable::Check(const std::vector<absl::string_view>& authorization,
                               Access needed) const {
  if (needed == Access::kPublic) {
    return absl::OkStatus();
  }
  absl::string_view token = authorization.size() == 1 ? authorization[0] : "";
  const bool well_formed = absl::ConsumePrefix(&token, "Bearer ") && token.size() <= kMaxTokenBytes;
  const std::array<uint8_t, 32> digest = Digest(well_formed ? token : "");
  // Every entry is compared, each in constant time.
  int found = 0;
  for (const Entry& entry : entries_) {
    const int equal = CRYPTO_memcmp(digest.data(), entry.digest.data(), digest.size()) == 0;
    found = std::max(found, equal * (1 + static_cast<int>(entry.role)));
  }
  if (!well_formed || found == 0) {
    return absl::UnauthenticatedError(
        "send a valid token as metadata `authorization: Bearer TOKEN`");
  }
  const auto role = static_cast<Access>(found - 1);
  if (role < needed) {
    return absl::PermissionDeniedError(absl::StrCat("this call needs the role `",
                                                    AccessName(needed), "`; the token's role is `",
                                                    AccessName(role), "`"));
  }
  return absl::OkStatus();
}

}  // namespace quantd
