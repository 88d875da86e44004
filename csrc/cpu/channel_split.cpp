// Even and odd channels apart, and joined again, in channels_last.
//
// A pixel's channels are neighbours, and two of them are one element of twice the width: its lower half is
// the even one. So splitting is a shift and a narrowing of vectors, joining the reverse. Where the halves of
// a pixel are as close as its pairs, pixels are one long row. Bound by memory.
#include "cpu/channel_split.h"

#include <cstring>
#include <type_traits>

#include "cpu/simd.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// An element and a pair of them as vectors take them; pairs of the widest elements are moved one by one.
template <class Half, class Pair>
struct Widths {
  using Element = Half;
  static constexpr bool vectors = !std::is_same_v<Half, Pair>;
  static constexpr int64_t kCount = kVectorBytes / sizeof(Pair);
  static constexpr int kShift = 4 * sizeof(Pair);
  typedef Pair Pairs __attribute__((vector_size(kVectorBytes)));
  typedef Half Halves __attribute__((vector_size(kCount * sizeof(Half))));
};

template <class W>
void split(const typename W::Element* joined, typename W::Element* even, typename W::Element* odd,
           int64_t pairs) {
  int64_t i = 0;
  if constexpr (W::vectors) {
    for (; i + W::kCount <= pairs; i += W::kCount) {
      typename W::Pairs both;
      std::memcpy(&both, joined + 2 * i, sizeof both);
      const auto low = __builtin_convertvector(both, typename W::Halves);
      const auto high = __builtin_convertvector(both >> W::kShift, typename W::Halves);
      std::memcpy(even + i, &low, sizeof low);
      std::memcpy(odd + i, &high, sizeof high);
    }
  }
  for (; i < pairs; ++i) {
    even[i] = joined[2 * i];
    odd[i] = joined[2 * i + 1];
  }
}

template <class W>
void join(const typename W::Element* even, const typename W::Element* odd, typename W::Element* joined,
          int64_t pairs) {
  int64_t i = 0;
  if constexpr (W::vectors) {
    for (; i + W::kCount <= pairs; i += W::kCount) {
      typename W::Halves low, high;
      std::memcpy(&low, even + i, sizeof low);
      std::memcpy(&high, odd + i, sizeof high);
      const auto both = __builtin_convertvector(low, typename W::Pairs) |
                        __builtin_convertvector(high, typename W::Pairs) << W::kShift;
      std::memcpy(joined + 2 * i, &both, sizeof both);
    }
  }
  for (; i < pairs; ++i) {
    joined[2 * i] = even[i];
    joined[2 * i + 1] = odd[i];
  }
}

// Calls body(widths, joined, even, odd, pairs) for stretches of pixels [begin, end) that lie in one piece.
template <class Body>
void for_each_stretch(const PairedChannels& channels, int64_t begin, int64_t end, const Body& body) {
  const auto of_widths = [&](auto widths) {
    using T = typename decltype(widths)::Element;
    const int64_t together = channels.pairs == channels.stride ? end - begin : 1;
    for (int64_t p = begin; p < end; p += together) {
      body(widths, static_cast<T*>(channels.joined) + p * 2 * channels.pairs,
           static_cast<T*>(channels.even) + p * channels.stride,
           static_cast<T*>(channels.odd) + p * channels.stride, together * channels.pairs);
    }
  };
  if (channels.bytes == 2) return of_widths(Widths<uint16_t, uint32_t>{});
  if (channels.bytes == 4) return of_widths(Widths<uint32_t, uint64_t>{});
  of_widths(Widths<uint64_t, uint64_t>{});
}

}  // namespace

void split_channels(const PairedChannels& channels, int64_t begin, int64_t end) {
  for_each_stretch(channels, begin, end, [](auto widths, auto* joined, auto* even, auto* odd, int64_t pairs) {
    split<decltype(widths)>(joined, even, odd, pairs);
  });
}

void join_channels(const PairedChannels& channels, int64_t begin, int64_t end) {
  for_each_stretch(channels, begin, end, [](auto widths, auto* joined, auto* even, auto* odd, int64_t pairs) {
    join<decltype(widths)>(even, odd, joined, pairs);
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
