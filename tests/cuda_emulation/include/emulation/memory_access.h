// Loads and stores with cache hints: plain accesses here.
#pragma once

#define KSHOT_EMULATION_LOAD(name) \
  template <class T>               \
  inline T name(const T* from) {   \
    return *from;                  \
  }
#define KSHOT_EMULATION_STORE(name)                             \
  template <class T>                                            \
  inline void name(T* to, const std::common_type_t<T>& value) { \
    *to = value;                                                \
  }

#include <type_traits>

KSHOT_EMULATION_LOAD(__ldg)
KSHOT_EMULATION_LOAD(__ldcs)
KSHOT_EMULATION_LOAD(__ldcg)
KSHOT_EMULATION_LOAD(__ldca)
KSHOT_EMULATION_LOAD(__ldlu)
KSHOT_EMULATION_LOAD(__ldcv)
KSHOT_EMULATION_STORE(__stcs)
KSHOT_EMULATION_STORE(__stcg)
KSHOT_EMULATION_STORE(__stwb)
KSHOT_EMULATION_STORE(__stwt)
#undef KSHOT_EMULATION_LOAD
#undef KSHOT_EMULATION_STORE
