// Two 4-bit codes a byte.
#ifndef QUANTD_QUANTIZERS_CODECS_NIBBLES_H_
#define QUANTD_QUANTIZERS_CODECS_NIBBLES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

enum class NibbleOrder { kLowFirst, kHighFirst };

// Packs codes below 16; the missing partner of an odd last code is `padding`.
std::vector<std::byte> PackNibbles(std::span<const uint8_t> codes, NibbleOrder order,
                                   uint8_t padding);
// The same of `count` pairs, on this thread.
void PackPairs(const uint8_t* codes, int64_t count, NibbleOrder order, uint8_t* bytes);
// The first `count` codes; `bytes` holds ceil(count / 2).
std::vector<uint8_t> UnpackNibbles(std::span<const std::byte> bytes, int64_t count,
                                   NibbleOrder order);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_NIBBLES_H_
