// What fills the panels of dense convolution (see dense_conv2d.h) and empties them again: a weight is cut
// into panels, or rows of its K copies are mixed for some samples at a time, so that copies are read once for
// all of these; the gradients go the same ways back.
#include <algorithm>

#include "cpu/dense_conv2d.h"
#include "cpu/dense_tiles.h"

namespace kshot::cpu::KSHOT_ISA {
namespace {

// to[i * to_stride + j] = from[j * from_stride + i] for i < rows, j < columns
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
               int64_t to_stride) {
  int64_t i = 0;
#if defined(__AVX__)
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* block = from + j * from_stride + i;
      __m128 a = _mm_loadu_ps(block), b = _mm_loadu_ps(block + from_stride),
             c = _mm_loadu_ps(block + 2 * from_stride), d = _mm_loadu_ps(block + 3 * from_stride);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      float* target = to + i * to_stride + j;
      _mm_storeu_ps(target, a);
      _mm_storeu_ps(target + to_stride, b);
      _mm_storeu_ps(target + 2 * to_stride, c);
      _mm_storeu_ps(target + 3 * to_stride, d);
    }
    for (; j < columns; ++j) {
      for (int64_t k = i; k < i + 4; ++k) to[k * to_stride + j] = from[j * from_stride + k];
    }
  }
#endif
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[i * to_stride + j] = from[j * from_stride + i];
  }
}

}  // namespace

void choose_panel_width(int64_t channels, int64_t& width) {
  const int64_t vectors = (channels + kVector - 1) / kVector;
  const int64_t panels = (vectors + kMostVectors - 1) / kMostVectors;
  width = (vectors + panels - 1) / panels * kVector;
}

void pack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width, float* packed) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.out_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    const float* tap = weight.data + first * weight.out_stride + t * weight.tap_stride;
    float* rows = packed + t * weight.in_channels * panel_width;
    if (width < panel_width) std::fill(rows, rows + weight.in_channels * panel_width, 0.0f);
    if (weight.in_stride == 1) {
      transpose(tap, weight.out_stride, weight.in_channels, width, rows, panel_width);
      continue;
    }
    for (int64_t i = 0; i < weight.in_channels; ++i) {
      for (int64_t lane = 0; lane < width; ++lane) {
        rows[i * panel_width + lane] = tap[lane * weight.out_stride + i * weight.in_stride];
      }
    }
  }
}

void pack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width, float* packed) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += panel_width) {
      const float* from =
          weight.data + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      if (weight.in_stride == 1) {
        std::copy(from, from + width, packed);
      } else {
        for (int64_t lane = 0; lane < width; ++lane) packed[lane] = from[lane * weight.in_stride];
      }
      std::fill(packed + width, packed + panel_width, 0.0f);
    }
  }
}

void unpack_by_output(const WeightView& weight, int64_t panel, int64_t panel_width, const float* packed,
                      float* unpacked) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.out_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    const float* rows = packed + t * weight.in_channels * panel_width;
    float* tap = unpacked + first * weight.out_stride + t * weight.tap_stride;
    if (weight.in_stride == 1) {
      transpose(rows, panel_width, width, weight.in_channels, tap, weight.out_stride);
      continue;
    }
    for (int64_t i = 0; i < weight.in_channels; ++i) {
      for (int64_t lane = 0; lane < width; ++lane) {
        tap[lane * weight.out_stride + i * weight.in_stride] = rows[i * panel_width + lane];
      }
    }
  }
}

void unpack_by_input(const WeightView& weight, int64_t panel, int64_t panel_width, const float* packed,
                     float* unpacked) {
  const int64_t first = panel * panel_width, width = std::min(panel_width, weight.in_channels - first);
  for (int64_t t = 0; t < weight.taps; ++t) {
    for (int64_t o = 0; o < weight.out_channels; ++o, packed += panel_width) {
      float* to = unpacked + o * weight.out_stride + first * weight.in_stride + t * weight.tap_stride;
      if (weight.in_stride == 1) {
        std::copy(packed, packed + width, to);
      } else {
        for (int64_t lane = 0; lane < width; ++lane) to[lane * weight.in_stride] = packed[lane];
      }
    }
  }
}

void add_panels(float* into, const float* from, int64_t size) {
  for (int64_t e = 0; e < size; e += kVector) store(into + e, load(into + e) + load(from + e));
}

namespace {

// `samples` samples at a time, so that the copies are read once for all of them.
template <int samples, int vectors>
void mix_samples(const CopyRows& copies, const float* code, int64_t panel_width, float* mixed,
                 int64_t mixed_stride) {
  for (int64_t r = 0; r < copies.rows; ++r, mixed += panel_width) {
    V sums[samples][vectors] = {};
    const float* copy = copies.data + r * copies.row_stride;
    for (int64_t k = 0; k < copies.shots; ++k, copy += copies.copy_stride) {
      V values[vectors];
      load_row(values, copy, copies.width);
#pragma GCC unroll 4
      for (int n = 0; n < samples; ++n) {
        const V share = splat(code[n * copies.shots + k]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[n][v] += share * values[v];
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < samples; ++n) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) store(mixed + n * mixed_stride + v * kVector, sums[n][v]);
    }
  }
}

// Copies that are contracted at a time: the dots of all samples with them fill registers.
constexpr int kCopies = kSums / 6;

// Copies [k, k + copies) of `samples` samples, whose gradients are read once for all of these.
template <int samples, int copies_at_once>
void contract_samples(const RowsContraction& args, int64_t first, int64_t k) {
  const CopyRows& copies = args.copies;
  const float* gradients = args.gradients + first * args.gradient_stride;
  const float* code = args.code + first * copies.shots + k;
  const float* data = copies.data + k * copies.copy_stride;
  float* sums = args.sums + k * copies.copy_stride;
  V dots[samples][copies_at_once] = {};
  const auto contract = [&](int64_t r, int64_t c, auto lanes) {
    const int64_t at = r * copies.row_stride + c;
    V gradient[samples];
#pragma GCC unroll 4
    for (int n = 0; n < samples; ++n) {
      gradient[n] = load_lanes(gradients + n * args.gradient_stride + r * args.panel_width + c, lanes);
    }
#pragma GCC unroll 4
    for (int j = 0; j < copies_at_once; ++j) {
      const V value = load_lanes(data + j * copies.copy_stride + at, lanes);
      V total = load_lanes(sums + j * copies.copy_stride + at, lanes);
#pragma GCC unroll 4
      for (int n = 0; n < samples; ++n) {
        dots[n][j] += gradient[n] * value;
        total += code[n * copies.shots + j] * gradient[n];
      }
      store_lanes(sums + j * copies.copy_stride + at, total, lanes);
    }
  };
  for (int64_t r = 0; r < copies.rows; ++r) {
    int64_t c = 0;
    for (; c + kVector <= copies.width; c += kVector) contract(r, c, WholeVector{});
    if (c < copies.width) contract(r, c, CutVector{copies.width - c});
  }
  for (int n = 0; n < samples; ++n) {
    for (int j = 0; j < copies_at_once; ++j) {
      args.dots[(first + n) * copies.shots + k + j] += sum_of_lanes<float>(dots[n][j]);
    }
  }
}

}  // namespace

void mix_rows(const CopyRows& copies, const float* code, int64_t samples, int64_t panel_width, float* mixed,
              int64_t mixed_stride) {
  const int64_t filled = (copies.width + kVector - 1) / kVector * kVector;
  for (int64_t n = 0; n < samples && filled < panel_width; ++n) {
    for (int64_t r = 0; r < copies.rows; ++r) {
      float* row = mixed + n * mixed_stride + r * panel_width;
      std::fill(row + filled, row + panel_width, 0.0f);
    }
  }
  with_vectors(copies.width, [&](auto vectors) {
    for_each_tile<4>(samples, [&](auto count, int64_t n) {
      mix_samples<decltype(count)::value, decltype(vectors)::value>(
          copies, code + n * copies.shots, panel_width, mixed + n * mixed_stride, mixed_stride);
    });
  });
}

void contract_rows(const RowsContraction& args) {
  for_each_tile<4>(args.samples, [&](auto samples, int64_t n) {
    for_each_tile<kCopies>(args.copies.shots, [&](auto copies, int64_t k) {
      contract_samples<decltype(samples)::value, decltype(copies)::value>(args, n, k);
    });
  });
}

}  // namespace kshot::cpu::KSHOT_ISA
