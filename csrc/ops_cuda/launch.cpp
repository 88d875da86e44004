// The only file of the glue that knows the CUDA runtime.
#include "ops_cuda/launch.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace kshot {

Launch::Launch(const Tensor& tensor) {
  const cudaError_t earlier = cudaGetLastError();
  STD_TORCH_CHECK(earlier == cudaSuccess,
                  "CUDA work before this operator failed: ", cudaGetErrorString(earlier));
  const int32_t device = tensor.get_device_index();
  DeviceGuardHandle guard = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_device_guard(device, &guard));
  device_guard_ = guard;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream_));
}

Launch::~Launch() {
  aoti_torch_delete_device_guard(static_cast<DeviceGuardHandle>(device_guard_));
}

}  // namespace kshot
