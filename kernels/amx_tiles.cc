#include "kernels/amx_tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace quantd {
namespace {

// Palette 1: eight tiles of 16 rows of 64 bytes.
struct __attribute__((packed)) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Linux gives the tile registers to processes that ask for them.
bool KernelGrantsTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

}  // namespace

bool ProcessorHasTiles(TileNumbers numbers) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const unsigned products = numbers == TileNumbers::kInt8 ? 25 : 22;  // AMX-INT8, AMX-BF16
  const bool tiles = (edx >> 24 & 1) != 0 && (edx >> products & 1) != 0;
  return tiles && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
         (eax >> 5 & 1) != 0 &&  // AVX512_BF16
         KernelGrantsTiles();
}

__attribute__((target("amx-tile"))) void BeginTiles() {
  // In memory: the intrinsic does not tell compilers that it reads all of it.
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
}

__attribute__((target("amx-tile"))) void EndTiles() { _tile_release(); }

}  // namespace quantd

#else

namespace quantd {
bool ProcessorHasTiles(TileNumbers) { return false; }
void BeginTiles() {}
void EndTiles() {}
}  // namespace quantd

#endif
