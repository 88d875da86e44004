// Alignment by dynamic time warping against loops over the equation in double.
#include <cmath>
#include <limits>

#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

struct Case {
  int64_t rows, columns, channels, band;
  std::vector<int64_t> row_counts, column_counts;
  int64_t count() const { return static_cast<int64_t>(row_counts.size()); }
};

const Case kCases[] = {
    {1, 1, 1, 0, {1}, {1}},
    {17, 33, 2, 1, {17, 1, 16, 9}, {33, 20, 1, 9}},
    {40, 40, 2, 0, {40, 17, 33}, {40, 17, 39}},
    {64, 31, 3, 5, {64, 32, 10, 1, 48}, {31, 31, 30, 1, 2}},
    {5, 70, 4, 1000, {5, 3}, {70, 69}},
};

template <class C>
double distance(const C* p, const C* t, int64_t channels, bool euclidean) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const double difference = static_cast<double>(p[c]) - t[c];
    sum += euclidean ? difference * difference : std::abs(difference);
  }
  return euclidean ? std::sqrt(sum) : sum;
}

// Appends the path of one pair to `path`; returns its cost.
template <class C>
double align(const C* p, const C* t, const Case& c, int64_t rows, int64_t columns, bool euclidean,
             std::vector<double>& path) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  std::vector<double> totals(static_cast<size_t>((rows + 1) * (columns + 1)), kNone);
  const auto total = [&](int64_t i, int64_t j) -> double& { return totals[(i + 1) * (columns + 1) + j + 1]; };
  total(-1, -1) = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      if (in_band(i, j, rows, columns, c.band)) {
        const double before = std::min({total(i - 1, j - 1), total(i - 1, j), total(i, j - 1)});
        total(i, j) = distance(p + i * c.channels, t + j * c.channels, c.channels, euclidean) + before;
      }
    }
  }
  std::vector<std::pair<int64_t, int64_t>> backwards;
  for (int64_t i = rows - 1, j = columns - 1; i >= 0;) {
    backwards.emplace_back(i, j);
    const double before = std::min({total(i - 1, j - 1), total(i - 1, j), total(i, j - 1)});
    const bool diagonal = total(i - 1, j - 1) == before, upper = !diagonal && total(i - 1, j) == before;
    i -= diagonal || upper;
    j -= !upper;
  }
  for (int64_t s = 0; s < c.rows + c.columns - 1; ++s) {
    const int64_t from = static_cast<int64_t>(backwards.size()) - 1 - s;
    path.push_back(from < 0 ? -1 : static_cast<double>(backwards[from].first));
    path.push_back(from < 0 ? -1 : static_cast<double>(backwards[from].second));
  }
  return total(rows - 1, columns - 1);
}

template <class C>
bool check(const Kernels& kernels, const Case& c, DType dtype, bool euclidean) {
  const std::vector<C> p = numbers<C>(c.count() * c.rows * c.channels, 1);
  const std::vector<C> t = numbers<C>(c.count() * c.columns * c.channels, 2), g = numbers<C>(c.count(), 3);
  std::vector<double> expected_path, expected_cost, grad_p(p.size()), grad_t(t.size());
  for (int64_t n = 0; n < c.count(); ++n) {
    const C *first = p.data() + n * c.rows * c.channels, *second = t.data() + n * c.columns * c.channels;
    const size_t begin = expected_path.size();
    expected_cost.push_back(
        align(first, second, c, c.row_counts[n], c.column_counts[n], euclidean, expected_path));
    for (size_t s = begin; s < expected_path.size() && expected_path[s] >= 0; s += 2) {
      const int64_t i = static_cast<int64_t>(expected_path[s]),
                    j = static_cast<int64_t>(expected_path[s + 1]);
      const C *a = first + i * c.channels, *b = second + j * c.channels;
      const double length = distance(a, b, c.channels, true);
      for (int64_t d = 0; d < c.channels; ++d) {
        const double difference = static_cast<double>(a[d]) - b[d];
        const double sign =
            euclidean ? (length == 0 ? 0 : difference / length) : (difference > 0) - (difference < 0);
        grad_p[(n * c.rows + i) * c.channels + d] += g[n] * sign;
        grad_t[(n * c.columns + j) * c.channels + d] -= g[n] * sign;
      }
    }
  }
  std::vector<C> cost(expected_cost.size()), found_p(p.size()), found_t(t.size());
  std::vector<int64_t> path(expected_path.size());
  DtwAlign args{};
  args.dtype = dtype;
  args.count = c.count();
  args.rows = c.rows;
  args.columns = c.columns;
  args.channels = c.channels;
  args.band = c.band;
  args.euclidean = euclidean;
  args.predictions = p.data();
  args.targets = t.data();
  args.prediction_lengths = c.row_counts.data();
  args.target_lengths = c.column_counts.data();
  args.cost = cost.data();
  args.path = path.data();
  on_two_threads(c.count(), [&](int64_t begin, int64_t end) { kernels.dtw_align(args, begin, end); });
  std::atomic<bool> astray{false};
  const DtwAlignBackward backward{args, g.data(), found_p.data(), found_t.data()};
  on_two_threads(c.count(), [&](int64_t begin, int64_t end) {
    kernels.dtw_align_backward(backward, begin, end, astray);
  });
  const double tolerance = euclidean ? 1e-4 : 0;
  return !astray && equal("path", kernels, path, expected_path) &&
         equal("cost", kernels, cost, expected_cost, 10 * tolerance) &&
         equal("predictions' gradient", kernels, found_p, grad_p, tolerance) &&
         equal("targets' gradient", kernels, found_t, grad_t, tolerance);
}

// The walk finds on every anti-diagonal the cells that the band's definition holds.
bool check_walk() {
  for (int64_t rows = 1; rows < 12; ++rows) {
    for (int64_t columns = 1; columns < 12; ++columns) {
      for (int64_t band = 0; band < 4; ++band) {
        BandWalk walk(rows, columns, band);
        for (int64_t k = 0; k < walk.diagonals(); ++k, walk.advance()) {
          int64_t cells = 0;
          for (int64_t i = 0; i < rows; ++i) {
            const bool inside = in_band(i, k - i, rows, columns, band);
            cells += inside;
            if (inside != (walk.first() <= i && i <= walk.last())) {
              std::printf("walk: cell %d of anti-diagonal %d of %d x %d, band %d\n", static_cast<int>(i),
                          static_cast<int>(k), static_cast<int>(rows), static_cast<int>(columns),
                          static_cast<int>(band));
              return false;
            }
          }
          if (cells > walk.most_cells() || walk.last() < walk.first() - 1) return false;
        }
      }
    }
  }
  return true;
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    bool passed = check_walk();
    for (const Case& c : kCases) {
      for (const bool euclidean : {false, true}) {
        passed = check<float>(kernels, c, DType::kFloat32, euclidean) && passed;
        passed = check<double>(kernels, c, DType::kFloat64, euclidean) && passed;
      }
    }
    return passed;
  });
}
