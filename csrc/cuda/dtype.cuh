// Element types on the device: the one table from the host's storage types, conversion to and from the type
// of sums. Device code names elements float, double, __nv_bfloat16 or __half; sums are kshot::Sum<T>.
#pragma once

#include <type_traits>

#include "common/dtype.h"
#include "cuda/platform.cuh"

namespace kshot::cuda {

template <class Storage>
struct DeviceTypeOf {
  using type = Storage;
};
template <>
struct DeviceTypeOf<BFloat16> {
  using type = __nv_bfloat16;
};
template <>
struct DeviceTypeOf<Float16> {
  using type = __half;
};

// Calls `body` with a null pointer of the device type that stands for `dtype`.
template <class Body>
void dispatch_device_dtype(DType dtype, const Body& body) {
  dispatch_dtype(dtype, [&](auto* storage) {
    using Storage = std::remove_pointer_t<decltype(storage)>;
    body(static_cast<typename DeviceTypeOf<Storage>::type*>(nullptr));
  });
}

// The same for kernels that have no double form; the caller has ruled out kFloat64.
template <class Body>
void dispatch_device_dtype_without_double(DType dtype, const Body& body) {
  dispatch_device_dtype(dtype, [&](auto* type) {
    if constexpr (!std::is_same_v<decltype(type), double*>) body(type);
  });
}

__device__ __forceinline__ float to_sum(float value) {
  return value;
}
__device__ __forceinline__ double to_sum(double value) {
  return value;
}
__device__ __forceinline__ float to_sum(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
__device__ __forceinline__ float to_sum(__half value) {
  return __half2float(value);
}

template <class T>
__device__ __forceinline__ T from_sum(Sum<T> value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16(value);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half(value);
  } else {
    return value;
  }
}

}  // namespace kshot::cuda
