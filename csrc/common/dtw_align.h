// Alignment of two sequences by dynamic time warping: arguments of the kernels of every backend, and the walk
// along the band.
//
// A path enters cells (i, j) of a rectangle, i a point of the first sequence and j one of the second. Cells
// of one sum k = i + j, an anti-diagonal, depend on the two anti-diagonals before them only. The band holds
// the cells
//
//     |i (columns - 1) - j (rows - 1)| <= (band + 1/2) max(rows - 1, columns - 1),
//
// which are those at most band + 1/2 points of the shorter sequence away from the straight line between the
// corners; so the band always holds a path. On an anti-diagonal they are neighbours.
#pragma once

#include <cstdint>

#include "common/dtype.h"

#if defined(__CUDACC__)
#define KSHOT_HOST_DEVICE __host__ __device__
#else
#define KSHOT_HOST_DEVICE
#endif

namespace kshot {

// Sizes below this cannot overflow the integers of the band.
constexpr int64_t kMostAlignedPoints = int64_t{1} << 28;

struct DtwAlign {
  DType dtype;                             // float32 or float64
  int64_t count, rows, columns, channels;  // pairs; points of the longest sequences; coordinates of a point
  int64_t band;                            // 0 to kMostAlignedPoints
  bool euclidean;                          // distances are Euclidean, else sums of absolute differences
  const void* predictions;                 // [count, rows, channels]
  const void* targets;                     // [count, columns, channels]
  const int64_t* prediction_lengths;       // [count], or null: all points count
  const int64_t* target_lengths;           // the same
  void* cost;                              // [count]
  int64_t* path;                           // [count, rows + columns - 1, 2]; behind its end -1

  KSHOT_HOST_DEVICE int64_t path_size() const { return rows + columns - 1; }
};

struct DtwAlignBackward {
  DtwAlign forward;        // without lengths, band and cost; path is an operand
  const void* grad;        // [count]: of the cost
  void* grad_predictions;  // like predictions; or null
  void* grad_targets;      // like targets; or null
};

// The cells of the band on one anti-diagonal after the other: those whose i is first() to last(). There may
// be none: then last() is first() - 1. From one anti-diagonal to the next, either end moves by 0 or 1.
class BandWalk {
 public:
  KSHOT_HOST_DEVICE BandWalk(int64_t rows, int64_t columns, int64_t band)
      : rows_(rows), columns_(columns), step_(2 * (rows - 1)), whole_(2 * (rows + columns - 2)) {
    // On anti-diagonal k the band is |2 i (rows + columns - 2) - 2 k (rows - 1)| <= reach.
    const int64_t longer = rows > columns ? rows : columns;
    const int64_t reach = (2 * (band < longer ? band : longer) + 1) * (longer - 1);
    if (whole_ == 0) whole_ = 1;  // a single cell
    high_ = reach / whole_;
    low_ = -high_;
    high_rest_ = low_rest_ = reach % whole_;
    const int64_t shorter = rows < columns ? rows : columns;
    most_cells_ = 2 * high_ + 2 < shorter ? 2 * high_ + 2 : shorter;
  }

  KSHOT_HOST_DEVICE void advance() {
    ++diagonal_;
    low_rest_ -= step_;
    if (low_rest_ < 0) {
      low_rest_ += whole_;
      ++low_;
    }
    high_rest_ += step_;
    if (high_rest_ >= whole_) {
      high_rest_ -= whole_;
      ++high_;
    }
  }

  KSHOT_HOST_DEVICE int64_t diagonal() const { return diagonal_; }
  KSHOT_HOST_DEVICE int64_t diagonals() const { return rows_ + columns_ - 1; }
  KSHOT_HOST_DEVICE int64_t first() const {
    const int64_t edge = diagonal_ - columns_ + 1 > 0 ? diagonal_ - columns_ + 1 : 0;
    return low_ > edge ? low_ : edge;
  }
  KSHOT_HOST_DEVICE int64_t last() const {
    const int64_t edge = diagonal_ < rows_ - 1 ? diagonal_ : rows_ - 1;
    return high_ < edge ? high_ : edge;
  }
  // The most cells that any anti-diagonal has.
  KSHOT_HOST_DEVICE int64_t most_cells() const { return most_cells_; }

 private:
  int64_t rows_, columns_, step_, whole_, most_cells_;
  int64_t diagonal_ = 0, low_, high_, low_rest_, high_rest_;
};

// Whether the band holds a cell of the rectangle.
KSHOT_HOST_DEVICE inline bool in_band(int64_t i, int64_t j, int64_t rows, int64_t columns, int64_t band) {
  if (i < 0 || j < 0 || i >= rows || j >= columns) return false;
  const int64_t longer = rows > columns ? rows : columns;
  const int64_t across = 2 * (i * (columns - 1) - j * (rows - 1));
  const int64_t reach = (2 * (band < longer ? band : longer) + 1) * (longer - 1);
  return (across < 0 ? -across : across) <= reach;
}

// Where a cell's least path comes from, as the kernels keep it: two bits, of which the later counts.
constexpr int kFromUpper = 1, kFromLeft = 2;  // (i - 1, j) and (i, j - 1); neither: (i - 1, j - 1)

// The place before (i, j) on its least path. Where all costs around are infinite, what was chosen may lie
// outside of the band; then it is the first of the three that does not.
struct Cell {
  int64_t i, j;
};
KSHOT_HOST_DEVICE inline Cell previous_in_band(Cell cell, int from, int64_t rows, int64_t columns,
                                               int64_t band) {
  const Cell diagonal{cell.i - 1, cell.j - 1}, upper{cell.i - 1, cell.j}, left{cell.i, cell.j - 1};
  const Cell chosen = from & kFromLeft ? left : from & kFromUpper ? upper : diagonal;
  if (in_band(chosen.i, chosen.j, rows, columns, band)) return chosen;
  if (in_band(diagonal.i, diagonal.j, rows, columns, band)) return diagonal;
  return in_band(upper.i, upper.j, rows, columns, band) ? upper : left;
}

}  // namespace kshot
