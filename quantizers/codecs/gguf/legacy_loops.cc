#include "quantizers/codecs/gguf/legacy_loops.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/instruction_set.h"
#include "quantizers/solvers/rounding.h"

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;

#define QUANTD_LOOPS "quantizers/codecs/gguf/legacy_loops.inc"
#include "kernels/cpu/every_isa.inc"

}  // namespace

const LegacyLoops& BestLegacyLoops() { return VariantsOfThisCpu().best(); }

const LegacyLoops* const* AllLegacyLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd::gguf
