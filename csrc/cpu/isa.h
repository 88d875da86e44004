// Runtime choice of the instruction set.
//
// Every csrc/cpu/NAME.cpp is compiled once per instruction set into kshot::cpu::portable, ::avx2 and
// ::avx512. KSHOT_DECLARE declares the three forms of a kernel, KSHOT_CALL runs the one that this machine
// should use.
#pragma once

namespace kshot::cpu {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The best instruction set that was compiled in and that this processor has, or the one forced on it.
Isa isa();

// Forces an instruction set by name ("portable", "avx2", "avx512"; "auto" for the best one); false if it is
// not to be had here. Nothing may be running meanwhile.
bool force_isa(const char* name);

const char* name_of(Isa isa);

}  // namespace kshot::cpu

#define KSHOT_DECLARE(signature) \
  namespace portable {           \
  signature;                     \
  }                              \
  namespace avx2 {               \
  signature;                     \
  }                              \
  namespace avx512 {             \
  signature;                     \
  }

#if defined(KSHOT_HAVE_AVX512)
#define KSHOT_CASE_AVX512(call)    \
  case ::kshot::cpu::Isa::kAvx512: \
    ::kshot::cpu::avx512::call;    \
    break;
#else
#define KSHOT_CASE_AVX512(call)
#endif
#if defined(KSHOT_HAVE_AVX2)
#define KSHOT_CASE_AVX2(call)    \
  case ::kshot::cpu::Isa::kAvx2: \
    ::kshot::cpu::avx2::call;    \
    break;
#else
#define KSHOT_CASE_AVX2(call)
#endif
#if defined(KSHOT_HAVE_PORTABLE)
#define KSHOT_CASE_PORTABLE(call)    \
  case ::kshot::cpu::Isa::kPortable: \
    ::kshot::cpu::portable::call;    \
    break;
#else
#define KSHOT_CASE_PORTABLE(call)
#endif

// The default is never reached: isa() returns only what was compiled in.
#define KSHOT_CALL(kernel, ...)              \
  switch (::kshot::cpu::isa()) {             \
    KSHOT_CASE_AVX512(kernel(__VA_ARGS__))   \
    KSHOT_CASE_AVX2(kernel(__VA_ARGS__))     \
    KSHOT_CASE_PORTABLE(kernel(__VA_ARGS__)) \
    default:                                 \
      break;                                 \
  }
