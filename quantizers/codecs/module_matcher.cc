#include "quantizers/codecs/module_matcher.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr absl::string_view kPatternPrefix = "re:";
constexpr size_t kMaxPatternBytes = 1024;

}  // namespace

absl::StatusOr<ModuleMatcher> ModuleMatcher::Make(const std::vector<std::string>& targets,
                                                  absl::string_view where) {
  ModuleMatcher matcher;
  matcher.targets_ = targets;
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  for (const std::string& target : targets) {
    if (!absl::StartsWith(target, kPatternPrefix)) continue;
    const std::string text = target.substr(kPatternPrefix.size());
    auto pattern = std::make_shared<const RE2>(
        text.size() <= kMaxPatternBytes ? text : std::string("("), options);
    if (!pattern->ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": the pattern \"",
          absl::Utf8SafeCEscape(absl::string_view(target).substr(0, 200)), "\" is not accepted: ",
          text.size() <= kMaxPatternBytes ? pattern->error().substr(0, 200)
                                          : std::string("longer than 1024 bytes"),
          "; expected a regular expression of RE2 (no lookaround, no back-references)"));
    }
    matcher.patterns_.push_back(std::move(pattern));
  }
  return matcher;
}

ModuleMatcher::Match ModuleMatcher::Find(absl::string_view module,
                                         absl::string_view class_name) const {
  Match best = kNone;
  for (const std::string& target : targets_) {
    if (target == module) return kName;
    if (target == class_name) best = kClass;
  }
  const re2::StringPiece text(module.data(), module.size());
  for (const auto& pattern : patterns_) {
    if (pattern->Match(text, 0, text.size(), RE2::ANCHOR_START, nullptr, 0)) return kPattern;
  }
  return best;
}

}  // namespace quantd
