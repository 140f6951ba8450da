// kLanes numbers as one value: a register of the surrounding code's instruction set, since GCC 12
// takes wider ones apart in memory, number by number. GCC's vector extension, which clang has too.
#ifndef QUANTD_KERNELS_CPU_VECTOR_TYPES_H_
#define QUANTD_KERNELS_CPU_VECTOR_TYPES_H_

#include <cstdint>
#include <utility>

namespace quantd::cpu {

template <int kLanes>
struct Vectors {
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
  typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_VECTOR_TYPES_H_
