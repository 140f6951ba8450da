#include "kernels/cpu/kernel_table.h"

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd::cpu {
namespace {

std::string Names(const std::vector<const KernelTable*>& tables) {
  return absl::StrJoin(tables, ", ", [](std::string* out, const KernelTable* table) {
    absl::StrAppend(out, table->name);
  });
}

}  // namespace

std::vector<const KernelTable*> AllKernelTables() {
#if defined(__x86_64__)
  return {&avx512::Table(), &avx2::Table(), &scalar::Table()};
#else
  return {&scalar::Table()};
#endif
}

std::vector<const KernelTable*> SupportedKernelTables() {
  std::vector<const KernelTable*> supported;
  for (const KernelTable* table : AllKernelTables()) {
    if (table->supported()) supported.push_back(table);
  }
  return supported;
}

absl::StatusOr<const KernelTable*> SelectKernelTable() {
  const std::vector<const KernelTable*> supported = SupportedKernelTables();
  const char* forced = std::getenv("QUANTD_ISA");
  if (forced == nullptr || *forced == '\0') return supported.front();
  const absl::string_view name = forced;
  for (const KernelTable* table : AllKernelTables()) {
    if (name != table->name) continue;
    if (table->supported()) return table;
    return absl::FailedPreconditionError(absl::StrCat(
        "QUANTD_ISA is \"", name, "\", which this CPU does not have; it has: ", Names(supported)));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("QUANTD_ISA is \"", absl::Utf8SafeCEscape(name.substr(0, 200)),
                   "\", expected one of: ", Names(AllKernelTables())));
}

}  // namespace quantd::cpu
