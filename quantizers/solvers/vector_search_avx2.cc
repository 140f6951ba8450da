#define QUANTD_VECTOR_SEARCH_ISA vector_search_avx2
#include "quantizers/solvers/vector_search_lanes.h"
