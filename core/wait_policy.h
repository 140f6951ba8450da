// How long idle OpenMP threads spin before they sleep.
#ifndef QUANTD_CORE_WAIT_POLICY_H_
#define QUANTD_CORE_WAIT_POLICY_H_

namespace quantd {

// To be called first in main, with its argv. libgomp's threads spin for some milliseconds whenever
// they wait, which takes the processor from whoever they wait for when the machine has other work
// or the cgroup a quota: quantizing beside busy neighbours ran two to three times slower. libgomp
// reads its settings before main, so this starts the program anew with shorter spins (a few tenths
// of a millisecond, still longer than the gaps between regions while decoding). Does nothing when
// OMP_WAIT_POLICY or GOMP_SPINCOUNT is set, by whom ever.
void ShortenSpins(char** argv);

}  // namespace quantd

#endif  // QUANTD_CORE_WAIT_POLICY_H_
