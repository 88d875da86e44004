// Kernels whose traffic is known beforehand.
#pragma once

#include <cstdint>
#include <string>

namespace traffic_kernels {

void run(const std::string& which, const float* from, float* to);

}  // namespace traffic_kernels
