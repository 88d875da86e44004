// The buffers that stand for global memory, all of them.
#pragma once

#include <string>
#include <vector>

#include "emulation/device_memory.h"

namespace emulation {

std::vector<DeviceBuffer*>& device_buffers();
std::string mistake_in_device_memory();  // of any buffer; empty if there is none

}  // namespace emulation
