// What kernels include of CUDA's own headers, from the simulator.
#pragma once
#include "kiln_sim.h"
