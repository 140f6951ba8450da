#include "core/instruction_set.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quantd {
namespace {

InstructionSet Detect() {
#if defined(__x86_64__)
  // Clang's __builtin_cpu_supports does not know f16c. The other two imply that the system saves
  // the registers.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  __builtin_cpu_init();
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return InstructionSet::kBaseline;
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    return InstructionSet::kAvx512;
  }
  return InstructionSet::kAvx2;
#else
  return InstructionSet::kBaseline;
#endif
}

}  // namespace

InstructionSet ThisInstructionSet() {
  static const InstructionSet found = Detect();
  return found;
}

}  // namespace quantd
