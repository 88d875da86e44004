#include "touched_memory.h"

#include <algorithm>
#include <numeric>

namespace emulation {

TouchedMemory::TouchedMemory(const DeviceBuffer& buffer)
    : name_(buffer.name()), begin_(reinterpret_cast<uintptr_t>(buffer.data())), size_(buffer.bytes()) {
  // Sectors are those of addresses, which the buffer need not begin with.
  const size_t sectors = (begin_ % kSector + size_) / kSector + 1;
  for (const int write : {0, 1}) {
    touched_[write].assign(size_, 0);
    sector_block_[write].assign(sectors, kNone);
  }
  writer_.assign(size_ / kUnit + 1, kNone);
  reader_.assign(size_ / kUnit + 1, kNone);
}

bool TouchedMemory::misses(uintptr_t address, size_t bytes) const {
  if (address + bytes <= begin_ - kNear || address >= begin_ + size_ + kNear) return false;
  return address < begin_ || address + bytes > begin_ + size_;
}

bool TouchedMemory::touch(uintptr_t address, size_t bytes, bool write, int32_t block) {
  const size_t first = address - begin_;
  std::fill_n(touched_[write].begin() + static_cast<ptrdiff_t>(first), bytes, 1);
  const size_t origin = begin_ / kSector;
  for (size_t sector = address / kSector; sector * kSector < address + bytes; ++sector) {
    int32_t& last = sector_block_[write][sector - origin];
    block_sectors_[write] += last != block;
    last = block;
  }
  bool conflict = false;
  for (size_t unit = first / kUnit; unit * kUnit < first + bytes; ++unit) {
    int32_t &writer = writer_[unit], &reader = reader_[unit];
    conflict |= writer != kNone && writer != block;
    if (write) {
      conflict |= reader != kNone && reader != block;
      writer = block;
    } else {
      reader = reader == kNone || reader == block ? block : kSeveral;
    }
  }
  return conflict && bytes > 1;  // single bytes share a unit with their neighbours
}

int64_t TouchedMemory::unique_bytes(bool write) const {
  return std::accumulate(touched_[write].begin(), touched_[write].end(), int64_t{0});
}

}  // namespace emulation
