// Moments of parts of a batch, joined to those of the whole.
#pragma once

#include <cstdint>
#include <vector>

namespace kshot {

// Mean and biased variance [C] of all positions, from means and squared deviations [parts, 2, C] of parts
// that have `counts` positions, in order, by the formula of Chan, Golub and LeVeque (1979) in double. Zero if
// there are none.
template <class C>
void join_moments(const C* moments, const std::vector<int64_t>& counts, int64_t channels, C* mean,
                  C* variance) {
  std::vector<double> means(static_cast<size_t>(channels)), squares(static_cast<size_t>(channels));
  double count = 0;
  for (const int64_t size : counts) {
    const double total = count + static_cast<double>(size);
    const double share = size ? static_cast<double>(size) / total : 0, cross = count * share;
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      const double distance = moments[c] - means[at];
      means[at] += distance * share;
      squares[at] += moments[channels + c] + distance * distance * cross;
    }
    count = total;
    moments += 2 * channels;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const size_t at = static_cast<size_t>(c);
    mean[c] = static_cast<C>(means[at]);
    variance[c] = count > 0 ? static_cast<C>(squares[at] / count) : C(0);
  }
}

}  // namespace kshot
