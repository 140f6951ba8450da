// The arithmetic under rounded_product.h, by rounding.
#ifndef QUANTD_KERNELS_ROUNDED_PRODUCT_TABLES_H_
#define QUANTD_KERNELS_ROUNDED_PRODUCT_TABLES_H_

#include "core/instruction_set.h"
#include "kernels/rounded_product.h"

namespace quantd {

// `slice` and `depth` of products that multiply by all of the inner dimension at a time.
inline constexpr int64_t kWholeInner = int64_t{1} << 40;

const Variants<RoundedProduct>& BFloat16Products();
const Variants<RoundedProduct>& Int8Products();

// For processors with AVX-512 as of Cascade Lake. On AMX tiles: null where there are none.
const RoundedProduct* AmxBFloat16Product();
const RoundedProduct* AmxInt8Product();
// By VNNI; null where this was not compiled in.
const RoundedProduct* VnniInt8Product();

}  // namespace quantd

#endif  // QUANTD_KERNELS_ROUNDED_PRODUCT_TABLES_H_
