// How many sequences the steps of a scheduler advanced, as a histogram.
#ifndef QUANTD_MODELS_BATCH_SIZES_H_
#define QUANTD_MODELS_BATCH_SIZES_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace quantd {

struct BatchSizes {
  static constexpr std::array<int32_t, 8> kBounds = {1, 2, 4, 8, 16, 32, 64, 128};

  std::array<uint64_t, kBounds.size() + 1> steps{};  // of at most kBounds[i] sequences; of more
  uint64_t sequences = 0;                            // over all steps

  void Add(size_t size) {
    const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), static_cast<int32_t>(size));
    ++steps[static_cast<size_t>(bound - kBounds.begin())];
    sequences += size;
  }
};

}  // namespace quantd

#endif  // QUANTD_MODELS_BATCH_SIZES_H_
