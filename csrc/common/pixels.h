// Where the pixels of a batch of images lie, torch-free.
#pragma once

#include <cstdint>

namespace kshot {

// Channel c of pixel p, counted through all samples, lies at data[p * stride + c]. In channels_last the
// stride is the number of channels; it is larger where some neighbouring channels of such a batch are meant.
template <class T>
struct Pixels {
  const T* data;
  int64_t stride;
};

}  // namespace kshot
