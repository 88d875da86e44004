#include "warp_access.h"

#include <algorithm>

namespace emulation {
namespace {

constexpr uintptr_t kSector = 32;
constexpr int kBanks = 32, kBankBytes = 4;
constexpr int kWavefrontBytes = kBanks * kBankBytes;

struct Interval {
  uintptr_t begin, end;
};

// The lanes' intervals in order of their beginnings.
int sorted_intervals(const WarpAccess& access, Interval* intervals) {
  int count = 0;
  bool sorted = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(access.lanes >> lane & 1u)) continue;
    intervals[count] = {access.address[lane], access.address[lane] + access.bytes[lane]};
    sorted = sorted && (count == 0 || intervals[count - 1].begin <= intervals[count].begin);
    ++count;
  }
  if (!sorted) {
    std::sort(intervals, intervals + count,
              [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  }
  return count;
}

}  // namespace

void count_global(const WarpAccess& access, InstructionCounts& counts) {
  Interval intervals[32];
  const int count = sorted_intervals(access, intervals);
  int64_t bytes = 0, sectors = 0;
  uintptr_t end = 0, next_sector = 0;  // of what was counted so far
  for (int i = 0; i < count; ++i) {
    const uintptr_t first = std::max(intervals[i].begin, end);
    if (first >= intervals[i].end) continue;
    bytes += static_cast<int64_t>(intervals[i].end - first);
    end = intervals[i].end;
    const uintptr_t from = std::max(first / kSector, next_sector), to = (end - 1) / kSector + 1;
    if (to > from) sectors += static_cast<int64_t>(to - from);
    next_sector = std::max(next_sector, to);
  }
  ++counts.accesses;
  counts.bytes += bytes;
  counts.sectors += sectors;
  counts.ideal_sectors += (bytes + static_cast<int64_t>(kSector) - 1) / static_cast<int64_t>(kSector);
}

// Lanes are served in groups that together move one word of each bank: all 32 with words of 4 bytes, 16 with
// 8, 8 with 16. Within a group a bank gives one word in a pass, to all lanes that want it.
void count_shared(const WarpAccess& access, InstructionCounts& counts) {
  const int lane_bytes = std::max<int>(kBankBytes, *std::max_element(access.bytes, access.bytes + 32));
  const int group = std::min(32, kWavefrontBytes / lane_bytes);
  ++counts.accesses;
  for (int first = 0; first < 32; first += group) {
    uintptr_t words[kBanks][32];
    int wanted[kBanks] = {};
    int passes = 0;
    for (int lane = first; lane < first + group; ++lane) {
      if (!(access.lanes >> lane & 1u)) continue;
      counts.bytes += access.bytes[lane];
      const uintptr_t end = access.address[lane] + access.bytes[lane];
      for (uintptr_t word = access.address[lane] / kBankBytes; word * kBankBytes < end; ++word) {
        const int bank = static_cast<int>(word % kBanks);
        uintptr_t* others = words[bank];
        if (std::find(others, others + wanted[bank], word) != others + wanted[bank]) continue;
        others[wanted[bank]++] = word;
        passes = std::max(passes, wanted[bank]);
      }
    }
    if (passes == 0) continue;
    counts.wavefronts += passes;
    counts.ideal_wavefronts += 1;
    counts.worst_conflict = std::max<int64_t>(counts.worst_conflict, passes);
  }
}

}  // namespace emulation
