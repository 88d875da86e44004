// Whether tensors that an operator writes share memory: its result would hang on the order of the writes.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/tensor_utils.h"

namespace kshot {

// The memory that a tensor lies in, to behind its last element; there may be gaps between its elements.
struct MemoryRange {
  const char *begin, *end;
  const Tensor* tensor;
};

inline MemoryRange memory_of(const Tensor& tensor) {
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const char* begin = static_cast<const char*>(tensor.data_ptr());
  return {begin, begin + (last + 1) * static_cast<int64_t>(tensor.element_size()), &tensor};
}

// Marks the bytes of a tensor's elements in `used`, which stands for the memory from `begin` on. Returns
// whether one was marked before.
inline bool mark_elements(const MemoryRange& range, const char* begin, std::vector<char>& used) {
  const Tensor& tensor = *range.tensor;
  const int64_t bytes = static_cast<int64_t>(tensor.element_size());
  const Sizes sizes = sizes_of(tensor), strides = strides_of(tensor);
  const int64_t elements = product(sizes);
  for (int64_t i = 0; i < elements; ++i) {
    int64_t rest = i, offset = 0;
    for (size_t d = sizes.size(); d-- > 0; rest /= sizes[d]) offset += rest % sizes[d] * strides[d];
    char* at = used.data() + (range.begin - begin) + offset * bytes;
    if (std::find(at, at + bytes, 1) != at + bytes) return true;
    std::fill(at, at + bytes, 1);
  }
  return false;
}

// Whether any two of the tensors, all on one device, have memory in common. Views of one storage that lie
// between each other's elements, as columns of a matrix do, have none.
inline bool share_memory(const std::vector<Tensor>& tensors) {
  std::vector<MemoryRange> ranges;
  for (const Tensor& tensor : tensors) {
    if (product(sizes_of(tensor)) > 0) ranges.push_back(memory_of(tensor));
  }
  const auto before = [](const MemoryRange& a, const MemoryRange& b) { return a.begin < b.begin; };
  std::sort(ranges.begin(), ranges.end(), before);
  for (size_t first = 0, next = 0; first < ranges.size(); first = next) {
    const char *begin = ranges[first].begin, *end = ranges[first].end;
    for (next = first + 1; next < ranges.size() && ranges[next].begin < end; ++next) {
      end = std::max(end, ranges[next].end);
    }
    if (next == first + 1) continue;
    std::vector<char> used(static_cast<size_t>(end - begin), 0);
    for (size_t r = first; r < next; ++r) {
      if (mark_elements(ranges[r], begin, used)) return true;
    }
  }
  return false;
}

}  // namespace kshot
