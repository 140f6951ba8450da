// Device memory of a model's weights, by layout.
#ifndef QUANTD_MODELS_ARCHITECTURES_PACKED_BYTES_H_
#define QUANTD_MODELS_ARCHITECTURES_PACKED_BYTES_H_

#include <cstdint>
#include <map>
#include <string>

#include "kernels/backend.h"
#include "models/linear.h"

namespace quantd {

struct PackedBytes {
  uint64_t total = 0;
  std::map<std::string, uint64_t> by_layout;

  void Add(const Linear& linear) {
    for (int64_t i = 0; i < linear.pieces(); ++i) Add(linear.weight(i));
  }
  void Add(const PackedWeight& weight) {
    total += weight.bytes();
    by_layout[std::string(LayoutName(weight.layout()))] += weight.bytes();
  }
};

}  // namespace quantd

#endif  // QUANTD_MODELS_ARCHITECTURES_PACKED_BYTES_H_
