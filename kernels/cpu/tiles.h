// The vector kernels, one file per instruction set and kind of arithmetic. Contracts: panel.h.
#ifndef QUANTD_KERNELS_CPU_TILES_H_
#define QUANTD_KERNELS_CPU_TILES_H_

#include <utility>

#include "kernels/cpu/panel.h"

namespace quantd::cpu {

namespace avx2 {
constexpr int kIntTokens = 4;
constexpr int kDenseTokens = 4;
constexpr int kCodeTokens = 4;
void RunIntTile(const IntTile& tile);
void RunFloatTile(const FloatTile& tile);
}  // namespace avx2

namespace avx512 {
constexpr int kIntTokens = 8;
constexpr int kDenseTokens = 8;
constexpr int kCodeTokens = 4;
void RunIntTile(const IntTile& tile);      // VNNI
void RunFloatTile(const FloatTile& tile);  // float32 activations
void RunBf16Tile(const FloatTile& tile);   // bf16 activations for kBf16, kFp8
}  // namespace avx512

// functions[n - 1] for the kernel that takes n tokens: Tiles<Kernel, 12>::Run(tile) calls
// Kernel::Run<tile.tokens>(tile).
template <class Kernel, int kMost>
struct Tiles {
  template <class Tile>
  static void Run(const Tile& tile) {
    Call(tile, std::make_integer_sequence<int, kMost>());
  }

 private:
  template <class Tile, int... kTokens>
  static void Call(const Tile& tile, std::integer_sequence<int, kTokens...>) {
    using Function = void (*)(const Tile&);
    static constexpr Function kFunctions[] = {&Kernel::template Run<kTokens + 1>...};
    kFunctions[tile.tokens - 1](tile);
  }
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_TILES_H_
