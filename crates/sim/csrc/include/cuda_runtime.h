#pragma once
#include "kiln_sim.h"
