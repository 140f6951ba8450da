// AMX: whether this process may use it, and its tiles as products use them.
#ifndef QUANTD_KERNELS_AMX_TILES_H_
#define QUANTD_KERNELS_AMX_TILES_H_

namespace quantd {

enum class TileNumbers { kBFloat16, kInt8 };
// Whether the processor multiplies tiles of such numbers, and has what AVX512_BF16 brings; and the
// kernel grants the registers. False on other architectures than x86-64.
bool ProcessorHasTiles(TileNumbers numbers);

// Between them a thread has eight tiles of 16 rows of 64 bytes. For processors that have tiles.
void BeginTiles();
void EndTiles();

}  // namespace quantd

#endif  // QUANTD_KERNELS_AMX_TILES_H_
