#define QUANTD_HALF_PRODUCTS_ISA half_products_avx2
#include "quantizers/solvers/half_products_lanes.h"
