// Rows of many dictionaries, spread over threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/mix_geometry.h"

namespace kshot {

// Calls body(index, begin, end) for rows [begin, end) of geometries[index], each row once. Tasks are alike in
// elements, not in rows; a row belongs to the task in whose stretch of elements it ends.
template <class Body>
void parallel_rows(const std::vector<const MixGeometry*>& geometries, const Body& body) {
  constexpr int64_t kGrain = 32768;  // elements that pay for waking a thread
  const auto elements_of_row = [&](size_t index) {
    const MixGeometry& g = *geometries[index];
    return std::max<int64_t>(1, g.shots * g.samples * g.runs * g.length_in(0));
  };
  std::vector<int64_t> starts{0};
  for (size_t index = 0; index < geometries.size(); ++index) {
    starts.push_back(starts.back() + geometries[index]->rows * elements_of_row(index));
  }
  torch::stable::parallel_for(0, starts.back(), kGrain, [&](int64_t begin, int64_t end) {
    size_t index = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    for (; index < geometries.size() && starts[index] < end; ++index) {
      const int64_t per_row = elements_of_row(index);
      const auto rows_before = [&](int64_t element) {
        return (std::clamp(element, starts[index], starts[index + 1]) - starts[index]) / per_row;
      };
      const int64_t first = rows_before(begin), last = rows_before(end);
      if (first < last) body(index, first, last);
    }
  });
}

}  // namespace kshot
