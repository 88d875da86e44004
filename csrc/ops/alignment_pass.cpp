// The passes of dtw_align on the CPU: what lengths and paths hold is checked here, where it can be read;
// threads. Kernels: cpu/dtw_align.cpp.
#include "ops/alignment_pass.h"

#include <atomic>
#include <new>

#include "cpu/dtw_align.h"

namespace kshot {
namespace {

void check_lengths(const char* name, const int64_t* lengths, int64_t count, int64_t most) {
  for (int64_t pair = 0; lengths && pair < count; ++pair) {
    STD_TORCH_CHECK(1 <= lengths[pair] && lengths[pair] <= most, name, " must be 1 to ", most, ", got ",
                    lengths[pair], " for pair ", pair);
  }
}

// Calls body(begin, end) for the pairs on all threads; a pair takes about so many operations.
template <class Body>
void parallel_pairs(int64_t pairs, int64_t operations, const Body& body) {
  constexpr int64_t kGrain = 65536;  // operations that pay for waking a thread
  torch::stable::parallel_for(0, pairs, std::max<int64_t>(1, kGrain / std::max<int64_t>(operations, 1)),
                              body);
}

}  // namespace

void run_alignment(const DtwAlign& args, const Tensor&) {
  check_lengths("prediction_lengths", args.prediction_lengths, args.count, args.rows);
  check_lengths("target_lengths", args.target_lengths, args.count, args.columns);
  const int64_t cells = args.path_size() * BandWalk(args.rows, args.columns, args.band).most_cells();
  std::atomic<bool> short_of_memory{false};
  parallel_pairs(args.count, cells * args.channels, [&](int64_t begin, int64_t end) {
    try {
      KSHOT_CALL(dtw_align, args, begin, end);
    } catch (const std::bad_alloc&) {
      short_of_memory = true;
    }
  });
  STD_TORCH_CHECK(!short_of_memory, "no memory to align ", args.rows, " with ", args.columns,
                  " points: their band takes ", cells / 4, " bytes a thread; a narrower band takes less");
}

void run_alignment_backward(const DtwAlignBackward& args, const Tensor&) {
  std::atomic<bool> astray{false};
  parallel_pairs(
      args.forward.count, args.forward.path_size() * args.forward.channels * 4,
      [&](int64_t begin, int64_t end) { KSHOT_CALL(dtw_align_backward, args, begin, end, astray); });
  STD_TORCH_CHECK(!astray, "path must have pairs below ", args.forward.rows, " and ", args.forward.columns,
                  ", and -1 behind its end");
}

}  // namespace kshot
