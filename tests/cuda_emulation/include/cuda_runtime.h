// Stands in for the CUDA runtime's header where kernels are compiled for the emulator.
#pragma once

#include "emulation/atomics.h"
#include "emulation/barriers.h"
#include "emulation/integer_math.h"
#include "emulation/kernel_variables.h"
#include "emulation/launch.h"
#include "emulation/memory_access.h"
#include "emulation/min_max.h"
#include "emulation/qualifiers.h"
#include "emulation/real_math.h"
#include "emulation/runtime_api.h"
#include "emulation/shared_memory.h"
#include "emulation/vector_types.h"
#include "emulation/warp_primitives.h"
