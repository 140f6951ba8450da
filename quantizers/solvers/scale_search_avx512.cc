#define QUANTD_SCALE_SEARCH_ISA scale_search_avx512
#include "quantizers/solvers/scale_search_lanes.h"
