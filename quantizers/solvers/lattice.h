// The points of a small lattice and, for every combination of levels that is no point, the points
// around it. Source: iq2xs_init_impl and iq3xs_init_impl in ggml-quants.c of ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_SOLVERS_LATTICE_H_
#define QUANTD_QUANTIZERS_SOLVERS_LATTICE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

// Elements of a group are numbers 0..levels - 1, packed from the lowest bits up, `bits` each.
class Lattice {
 public:
  static constexpr int kMaxSize = 8;  // elements of a group

  // `points` are packed combinations of `size` levels. The neighbours of a combination are the
  // points at its `shells` smallest distances, nearest first, then by their number.
  Lattice(std::span<const uint16_t> points, int size, int bits, int levels, int shells);

  int size() const { return size_; }
  int bits() const { return bits_; }
  int levels() const { return levels_; }
  uint32_t point(int index) const { return points_[static_cast<size_t>(index)]; }

  // Level of element i, counted on over groups.
  uint32_t LevelOf(uint32_t packed, int i) const {
    return packed >> (i % size_ * bits_) & ((1u << bits_) - 1);
  }

  bool Has(uint32_t packed) const { return spans_[packed].count == 0; }

  // The packed point among the neighbours of `packed` with the least sum of weights[i] * (scale *
  // values[level] - x[i])^2, the first of equals. `packed` must be no point.
  uint32_t Nearest(uint32_t packed, const float* x, const float* weights, float scale,
                   const float* values) const;

 private:
  struct Neighbour {
    uint8_t place[kMaxSize];  // level + 8 * element
  };
  struct Span {
    uint32_t begin = 0;
    uint32_t count = 0;  // 0 for points
  };

  void FindNeighbours(uint32_t packed, int shells);

  std::span<const uint16_t> points_;
  int size_;
  int bits_;
  int levels_;
  std::vector<Span> spans_;  // of every packed combination
  std::vector<Neighbour> neighbours_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_LATTICE_H_
