// bfloat16_product.h on AMX tiles.
#ifndef QUANTD_KERNELS_BFLOAT16_PRODUCT_AMX_H_
#define QUANTD_KERNELS_BFLOAT16_PRODUCT_AMX_H_

#include "kernels/bfloat16_product.h"

namespace quantd {

// Null where the processor has no AMX for bfloat16 or the kernel grants none. For processors with
// AVX-512 as of Cascade Lake.
const BFloat16Product* AmxBFloat16Product();

}  // namespace quantd

#endif  // QUANTD_KERNELS_BFLOAT16_PRODUCT_AMX_H_
