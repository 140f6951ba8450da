#include "quantizers/codecs/gguf/legacy_loops.h"

#include <cmath>
#include <cstring>

#include "core/instruction_set.h"
#include "quantizers/solvers/rounding.h"

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;

namespace baseline {
constexpr char kIsa[] = "baseline";
#include "quantizers/codecs/gguf/legacy_loops.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
#include "quantizers/codecs/gguf/legacy_loops.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
#include "quantizers/codecs/gguf/legacy_loops.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

const Variants<LegacyLoops>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<LegacyLoops> variants(&baseline::kLoops, &avx2::kLoops, &avx512::kLoops);
#else
  static const Variants<LegacyLoops> variants(&baseline::kLoops, nullptr, nullptr);
#endif
  return variants;
}

}  // namespace

const LegacyLoops& BestLegacyLoops() { return VariantsOfThisCpu().best(); }

const LegacyLoops* const* AllLegacyLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd::gguf
