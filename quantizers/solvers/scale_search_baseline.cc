#define QUANTD_SCALE_SEARCH_ISA scale_search_baseline
#include "quantizers/solvers/scale_search_lanes.h"
