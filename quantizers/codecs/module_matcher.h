// compressed-tensors' way of naming modules (utils/match.py, 0.20): a module's full name, its
// class, or "re:" and a regular expression that matches from the start of the name.
#ifndef QUANTD_QUANTIZERS_CODECS_MODULE_MATCHER_H_
#define QUANTD_QUANTIZERS_CODECS_MODULE_MATCHER_H_

#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "re2/re2.h"

namespace quantd {

class ModuleMatcher {
 public:
  // How exactly a module is matched; a smaller number is more specific.
  enum Match { kName, kPattern, kClass, kNone };

  // INVALID_ARGUMENT names `where` and a pattern that RE2 refuses: it runs in linear time and has
  // no lookaround or back-references.
  static absl::StatusOr<ModuleMatcher> Make(const std::vector<std::string>& targets,
                                            absl::string_view where);

  Match Find(absl::string_view module, absl::string_view class_name) const;
  const std::vector<std::string>& targets() const { return targets_; }

 private:
  std::vector<std::string> targets_;
  std::vector<std::shared_ptr<const RE2>> patterns_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_MODULE_MATCHER_H_
