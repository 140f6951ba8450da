#include "quantizers/solvers/lattice_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quantizers/solvers/positive_scales.h"

namespace quantd {
namespace {

constexpr int kMaxBlock = 32;
constexpr int kMaxGroups = 8;
constexpr float kOddValues[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// Points of a block and whether each was moved to from levels that are none.
struct Choice {
  uint32_t point[kMaxGroups];
  bool moved[kMaxGroups];
};

class Block {
 public:
  Block(const LatticeSearch& search, const float* x, const float* weights)
      : search_(search),
        lattice_(*search.lattice),
        groups_(search.block / search.lattice->size()),
        weights_(weights) {
    for (int i = 0; i < search.block; ++i) root_weight_[i] = std::sqrt(weights[i]);
    for (int k = 0; k < search.block / 8; ++k) TakeSigns(x, k);
  }

  // Scale, and points in `choice`. False when the block is empty.
  bool Fit(float* scale, Choice* choice) const {
    float largest = magnitude_[0];
    for (int i = 1; i < search_.block; ++i) largest = std::max(largest, magnitude_[i]);
    if (largest < search_.tiny || largest == 0) return false;
    const int levels = lattice_.levels();
    const float top = static_cast<float>(2 * levels - 1);
    float range = largest;
    if (search_.fitted_range) {
      uint8_t unused[kMaxBlock];
      *scale = FitPositiveScales(search_.block, levels + 1, magnitude_, weights_, unused);
      range = *scale * static_cast<float>(levels);
      if (range <= 0) return false;
    } else {
      *scale = largest / top;
    }
    *choice = {};
    if (search_.refit == LatticeSearch::Refit::kAllIfAnyMoved) choice->moved[0] = true;
    float best = 0;
    for (int trial = -search_.trials; trial <= search_.trials; ++trial) {
      const float inverse = (top + static_cast<float>(trial) * search_.step) / range;
      Choice next;
      for (int k = 0; k < groups_; ++k) ChoosePoint(k, inverse, 1 / inverse, &next);
      float sum_qx, sum_q2;
      Score(next, &sum_qx, &sum_q2);
      if (!(sum_q2 > 0 && sum_qx * sum_qx > best * sum_q2)) continue;
      *scale = sum_qx / sum_q2;
      best = *scale * sum_qx;
      *choice = next;
    }
    Refit(scale, choice);
    return true;
  }

  void WriteCodes(const Choice& choice, bool flip_signs, uint8_t* codes) const {
    for (int i = 0; i < search_.block; ++i) {
      const uint32_t level = lattice_.LevelOf(choice.point[i / lattice_.size()], i);
      codes[i] = static_cast<uint8_t>(level | Sign(i, flip_signs) << lattice_.bits());
    }
  }
  void WriteEmpty(uint8_t* codes) const {
    for (int i = 0; i < search_.block; ++i) {
      codes[i] = static_cast<uint8_t>(lattice_.LevelOf(lattice_.point(0), i));
    }
  }

 private:
  // Splits eight elements into magnitudes and signs. Where the number of minus signs must be even,
  // the element that matters least takes the other sign and a negative magnitude.
  void TakeSigns(const float* x, int k) {
    uint32_t signs = 0;
    for (int i = 8 * k; i < 8 * k + 8; ++i) {
      const bool negative = !(x[i] >= 0);
      magnitude_[i] = negative ? -x[i] : x[i];
      signs |= static_cast<uint32_t>(negative) << (i - 8 * k);
    }
    if (search_.even_signs && std::popcount(signs) % 2 != 0) {
      int least = 8 * k;
      float lowest = weights_[least] * x[least] * x[least];
      for (int i = 8 * k + 1; i < 8 * k + 8; ++i) {
        const float cost = weights_[i] * x[i] * x[i];
        if (!(cost < lowest)) continue;
        lowest = cost;
        least = i;
      }
      magnitude_[least] = -magnitude_[least];
      signs ^= 1u << (least - 8 * k);
    }
    signs_[k] = signs;
  }

  // Of element i. Flipping keeps the seven stored bits' complement, and parity makes the eighth.
  uint32_t Sign(int i, bool flip) const {
    uint32_t signs = signs_[i / 8];
    if (flip) {
      signs = ~signs & 0xffu;
      if (search_.even_signs && std::popcount(signs) % 2 != 0) signs ^= 0x80u;
    }
    return signs >> (i % 8) & 1u;
  }

  void ChoosePoint(int k, float inverse, float scale, Choice* choice) const {
    const int size = lattice_.size();
    const float* x = magnitude_ + k * size;
    uint32_t packed = 0;
    for (int i = 0; i < size; ++i) {
      const int level =
          std::clamp(NearestEvenInt(0.5f * (inverse * x[i] - 1)), 0, lattice_.levels() - 1);
      packed |= static_cast<uint32_t>(level) << (i * lattice_.bits());
    }
    choice->moved[k] = !lattice_.Has(packed);
    choice->point[k] = choice->moved[k]
                           ? lattice_.Nearest(packed, x, root_weight_ + k * size, scale, kOddValues)
                           : packed;
  }

  // Sums of w q x and w q^2.
  void Score(const Choice& choice, float* sum_qx, float* sum_q2) const {
    const int size = lattice_.size();
    *sum_qx = *sum_q2 = 0;
    for (int k = 0; k < groups_; ++k) {
      for (int i = 0; i < size; ++i) {
        const float q = kOddValues[lattice_.LevelOf(choice.point[k], i)];
        const float w = weights_[k * size + i];
        *sum_qx += w * magnitude_[k * size + i] * q;
        *sum_q2 += w * q * q;
      }
    }
  }

  void Refit(float* scale, Choice* choice) const {
    if (!(*scale > 0)) return;
    const bool any = std::any_of(choice->moved, choice->moved + groups_, [](bool m) { return m; });
    if (!any && search_.refit != LatticeSearch::Refit::kAll) return;
    const float inverse = 1 / *scale;
    for (int k = 0; k < groups_; ++k) {
      if (search_.refit == LatticeSearch::Refit::kMoved && !choice->moved[k]) continue;
      ChoosePoint(k, inverse, *scale, choice);
    }
    float sum_qx, sum_q2;
    Score(*choice, &sum_qx, &sum_q2);
    if (sum_q2 > 0) *scale = sum_qx / sum_q2;
  }

  const LatticeSearch& search_;
  const Lattice& lattice_;
  const int groups_;
  const float* weights_;
  float root_weight_[kMaxBlock];
  float magnitude_[kMaxBlock];
  uint32_t signs_[kMaxBlock / 8] = {};
};

}  // namespace

float SearchLattice(const LatticeSearch& search, const float* x, const float* weights,
                    uint8_t* codes) {
  const Block block(search, x, weights);
  float scale = 0;
  Choice choice = {};
  if (!block.Fit(&scale, &choice)) {
    block.WriteEmpty(codes);
    return 0;
  }
  block.WriteCodes(choice, scale < 0, codes);
  return std::fabs(scale);
}

}  // namespace quantd
