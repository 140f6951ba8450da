// 16 floats as one value, in whatever registers the surrounding code's instruction set has. GCC's
// vector extension, which clang has too.
#ifndef QUANTD_KERNELS_CPU_VECTOR_TYPES_H_
#define QUANTD_KERNELS_CPU_VECTOR_TYPES_H_

#include <cstdint>

namespace quantd::cpu {

using Vec = float __attribute__((vector_size(64)));
using IntVec = int32_t __attribute__((vector_size(64)));
using UintVec = uint32_t __attribute__((vector_size(64)));
using UnalignedVec = float __attribute__((vector_size(64), aligned(4), may_alias));

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_VECTOR_TYPES_H_
