// Exchanges within a warp: shuffles and votes. They order no accesses to memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/error.h"

namespace emulation {

enum class Shuffle { kIndex, kUp, kDown, kXor };

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width, Site site);
unsigned ballot(const char* name, unsigned mask, bool predicate, Site site);

template <class T>
T shuffle_value(Shuffle kind, unsigned mask, T value, int operand, int width, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(kind, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, KSHOT_EMULATION_HERE) {
  return emulation::shuffle_value(emulation::Shuffle::kIndex, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, KSHOT_EMULATION_HERE) {
  return emulation::shuffle_value(emulation::Shuffle::kUp, mask, value, static_cast<int>(delta), width,
                                  {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, KSHOT_EMULATION_HERE) {
  return emulation::shuffle_value(emulation::Shuffle::kDown, mask, value, static_cast<int>(delta), width,
                                  {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, KSHOT_EMULATION_HERE) {
  return emulation::shuffle_value(emulation::Shuffle::kXor, mask, value, lane_mask, width, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, KSHOT_EMULATION_HERE) {
  return emulation::ballot("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, KSHOT_EMULATION_HERE) {
  return emulation::ballot("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, KSHOT_EMULATION_HERE) {
  return emulation::ballot("__all_sync", mask, predicate != 0, {file, line}) == mask;
}
