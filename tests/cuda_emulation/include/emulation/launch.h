// Launching a kernel: the arguments are copied once, as the kernel's own parameter types; then every thread
// of every block runs on a fiber of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation/error.h"
#include "emulation/vector_types.h"

typedef struct CUstream_st* cudaStream_t;

namespace emulation {

struct LaunchSettings {
  const char* kernel;
  Site site;
  dim3 grid, block;
  int64_t shared_bytes;
  const void* function = nullptr;
  size_t parameter_bytes = 0;
};

// Calls body(data) once for every thread of the grid; runs nothing if the environment variable
// KSHOT_EMULATION_REFUSES stands in the kernel's name, as if its registers did not fit the device.
void run_grid(const LaunchSettings& settings, void (*body)(const void*), const void* data);

// Whether a launch was refused since the last call.
bool take_refusal();

template <class... Parameters>
class Launch {
 public:
  Launch(LaunchSettings settings, void (*kernel)(Parameters...)) : settings_(settings), kernel_(kernel) {
    settings_.function = reinterpret_cast<const void*>(kernel);
    settings_.parameter_bytes = (size_t{0} + ... + sizeof(Parameters));
  }

  template <class... Arguments>
  void operator()(Arguments&&... arguments) const {
    static_assert(sizeof...(Arguments) == sizeof...(Parameters));
    const Call call{kernel_, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
    run_grid(settings_, &Call::run, &call);
  }

 private:
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> parameters;

    static void run(const void* data) {
      const Call& call = *static_cast<const Call*>(data);
      std::apply(call.kernel, call.parameters);
    }
  };

  LaunchSettings settings_;
  void (*kernel_)(Parameters...);
};

template <class... Parameters>
Launch<Parameters...> launch(LaunchSettings settings, void (*kernel)(Parameters...)) {
  return {settings, kernel};
}

}  // namespace emulation

#define KSHOT_START(kernel, grid, block, shared_bytes, stream, ...)                                          \
  (static_cast<void>(static_cast<cudaStream_t>(stream)),                                                     \
   ::emulation::launch({#kernel, {__FILE__, __LINE__}, (grid), (block), static_cast<int64_t>(shared_bytes)}, \
                       (kernel))(__VA_ARGS__))
