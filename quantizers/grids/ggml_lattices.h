// The lattices of GGUF's IQ types: 8 (IQ1, IQ2) or 4 (IQ3) levels per point. Source of the points:
// constant tables of ggml-common.h, ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_GRIDS_GGML_LATTICES_H_
#define QUANTD_QUANTIZERS_GRIDS_GGML_LATTICES_H_

#include <cstdint>

namespace quantd {

// Level of element j of a point: bits [2j, 2j+2) for IQ1 and IQ2, [3j, 3j+3) for IQ3. Magnitudes of
// the levels are 8, 25, 43 (IQ2), 4, 12, 20, 28, 36, 44, 52, 62 (IQ3_XXS), 1, 3, ..., 15 (IQ3_S);
// IQ1 has the values -1, 0, 1.
extern const uint16_t kIq2XxsPoints[256];
extern const uint16_t kIq2XsPoints[512];
extern const uint16_t kIq2SPoints[1024];
extern const uint16_t kIq3XxsPoints[256];
extern const uint16_t kIq3SPoints[512];
extern const uint16_t kIq1Points[2048];

// Values of IQ4_NL and IQ4_XS codes (kvalues_iq4nl).
inline constexpr float kIq4NlValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};
// Values of MXFP4 and NVFP4 codes as ggml has them: E2M1 doubled, without a negative zero.
inline constexpr float kDoubledE2M1Values[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_GRIDS_GGML_LATTICES_H_
