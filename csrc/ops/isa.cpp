// Detection of the processor's instruction sets, and the operators that report and force one.
#include "cpu/isa.h"

#include <torch/csrc/stable/library.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace kshot::cpu {
namespace {

bool compiled_in(Isa isa) {
  switch (isa) {
#if defined(KSHOT_HAVE_AVX512)
    case Isa::kAvx512:
      return true;
#endif
#if defined(KSHOT_HAVE_AVX2)
    case Isa::kAvx2:
      return true;
#endif
#if defined(KSHOT_HAVE_PORTABLE)
    case Isa::kPortable:
      return true;
#endif
    default:
      return false;
  }
}

bool supported(Isa isa) {
  if (!compiled_in(isa)) return false;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx2) return avx2;
  if (isa == Isa::kAvx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == Isa::kPortable;
}

Isa best() {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kPortable}) {
    if (supported(isa)) return isa;
  }
  throw std::runtime_error(
      "the native kernels were built for a processor with other instruction sets than this one");
}

Isa& current() {
  static Isa value = best();
  return value;
}

}  // namespace

Isa isa() {
  return current();
}

const char* name_of(Isa isa) {
  return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "portable";
}

bool force_isa(const char* name) {
  if (std::strcmp(name, "auto") == 0) {
    current() = best();
    return true;
  }
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (std::strcmp(name, name_of(isa)) == 0 && supported(isa)) {
      current() = isa;
      return true;
    }
  }
  return false;
}

}  // namespace kshot::cpu

namespace {

std::string cpu_isa() {
  return kshot::cpu::name_of(kshot::cpu::isa());
}

bool force_cpu_isa(std::string name) {
  return kshot::cpu::force_isa(name.c_str());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kshot_ext, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("force_cpu_isa", TORCH_BOX(&force_cpu_isa));
}
