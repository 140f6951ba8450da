// Which of the loops that are compiled several times run on this processor.
#ifndef QUANTD_CORE_INSTRUCTION_SET_H_
#define QUANTD_CORE_INSTRUCTION_SET_H_

namespace quantd {

// Each has all of those before it.
enum class InstructionSet {
  kBaseline,  // what every processor of the architecture has
  kAvx2,      // with FMA and F16C: Haswell, Zen 1
  kAvx512,    // F, BW, VL, DQ and VNNI: Cascade Lake, Zen 4
};
// The widest of this processor whose registers the system saves.
InstructionSet ThisInstructionSet();

// The same loops as tables of functions, T, one per instruction set.
template <class T>
class Variants {
 public:
  // Null: not compiled for this architecture.
  Variants(const T* baseline, const T* avx2, const T* avx512) {
    Add(baseline);
    if (ThisInstructionSet() >= InstructionSet::kAvx2) Add(avx2);
    if (ThisInstructionSet() >= InstructionSet::kAvx512) Add(avx512);
  }
  // One more that runs here, better than those before; null: none.
  void Add(const T* table) {
    if (table != nullptr) list_[count_++] = table;
  }

  const T& best() const { return *list_[count_ - 1]; }
  // All that run here, the best last; null-terminated.
  const T* const* all() const { return list_; }

 private:
  const T* list_[5] = {};
  int count_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_INSTRUCTION_SET_H_
