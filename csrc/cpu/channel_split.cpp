// Even and odd elements apart, and joined again.
//
// In channels_last a pixel's channels are neighbours, and where their number is even, even and odd channels
// are the even and odd elements of the whole tensor. Two neighbours are one element of twice the width: its
// lower half is the even one. So splitting is a shift and a narrowing of vectors, joining the reverse. Bound
// by memory.
#include "cpu/channel_split.h"

#include <cstring>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

template <class Half, class Pair>
struct Widths {
  static constexpr int64_t kCount = kVectorBytes / sizeof(Pair);
  static constexpr int kShift = 8 * sizeof(Half);
  typedef Pair Pairs __attribute__((vector_size(kVectorBytes)));
  typedef Half Halves __attribute__((vector_size(kVectorBytes / 2)));
};

template <class Half, class Pair>
void split(const Half* source, Half* even, Half* odd, int64_t begin, int64_t end) {
  using W = Widths<Half, Pair>;
  for (; begin + W::kCount <= end; begin += W::kCount) {
    typename W::Pairs pairs;
    std::memcpy(&pairs, source + 2 * begin, sizeof pairs);
    const auto low = __builtin_convertvector(pairs, typename W::Halves);
    const auto high = __builtin_convertvector(pairs >> W::kShift, typename W::Halves);
    std::memcpy(even + begin, &low, sizeof low);
    std::memcpy(odd + begin, &high, sizeof high);
  }
  for (; begin < end; ++begin) {
    even[begin] = source[2 * begin];
    odd[begin] = source[2 * begin + 1];
  }
}

template <class Half, class Pair>
void join(const Half* even, const Half* odd, Half* target, int64_t begin, int64_t end) {
  using W = Widths<Half, Pair>;
  for (; begin + W::kCount <= end; begin += W::kCount) {
    typename W::Halves low, high;
    std::memcpy(&low, even + begin, sizeof low);
    std::memcpy(&high, odd + begin, sizeof high);
    const auto pairs = __builtin_convertvector(low, typename W::Pairs) |
                       __builtin_convertvector(high, typename W::Pairs) << W::kShift;
    std::memcpy(target + 2 * begin, &pairs, sizeof pairs);
  }
  for (; begin < end; ++begin) {
    target[2 * begin] = even[begin];
    target[2 * begin + 1] = odd[begin];
  }
}

// Calls body(null pointers to an element, and to a pair of them).
template <class Body>
void dispatch_bytes(int64_t bytes, const Body& body) {
  if (bytes == 2) return body(static_cast<uint16_t*>(nullptr), static_cast<uint32_t*>(nullptr));
  return body(static_cast<uint32_t*>(nullptr), static_cast<uint64_t*>(nullptr));
}

}  // namespace

void split_even_odd(int64_t bytes, const void* source, void* even, void* odd, int64_t begin, int64_t end) {
  if (bytes == 8) {
    for (int64_t i = begin; i < end; ++i) {
      static_cast<uint64_t*>(even)[i] = static_cast<const uint64_t*>(source)[2 * i];
      static_cast<uint64_t*>(odd)[i] = static_cast<const uint64_t*>(source)[2 * i + 1];
    }
    return;
  }
  dispatch_bytes(bytes, [&](auto* half, auto* pair) {
    using Half = std::remove_pointer_t<decltype(half)>;
    split<Half, std::remove_pointer_t<decltype(pair)>>(
        static_cast<const Half*>(source), static_cast<Half*>(even), static_cast<Half*>(odd), begin, end);
  });
}

void join_even_odd(int64_t bytes, const void* even, const void* odd, void* target, int64_t begin,
                   int64_t end) {
  if (bytes == 8) {
    for (int64_t i = begin; i < end; ++i) {
      static_cast<uint64_t*>(target)[2 * i] = static_cast<const uint64_t*>(even)[i];
      static_cast<uint64_t*>(target)[2 * i + 1] = static_cast<const uint64_t*>(odd)[i];
    }
    return;
  }
  dispatch_bytes(bytes, [&](auto* half, auto* pair) {
    using Half = std::remove_pointer_t<decltype(half)>;
    join<Half, std::remove_pointer_t<decltype(pair)>>(static_cast<const Half*>(even),
                                                      static_cast<const Half*>(odd),
                                                      static_cast<Half*>(target), begin, end);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
