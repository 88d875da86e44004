// Which bytes of a buffer a launch touched, and which of its blocks did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/device_memory.h"

namespace emulation {

class TouchedMemory {
 public:
  explicit TouchedMemory(const DeviceBuffer& buffer);

  bool contains(uintptr_t address) const { return address - begin_ < size_; }
  // Just beside the buffer, or across its end.
  bool misses(uintptr_t address, size_t bytes) const;
  const std::string& name() const { return name_; }

  // An access by a block; whether another block wrote what this one touches, or touched what this one writes.
  bool touch(uintptr_t address, size_t bytes, bool write, int32_t block);

  int64_t unique_bytes(bool write) const;
  int64_t block_sectors(bool write) const { return block_sectors_[write]; }

 private:
  static constexpr size_t kSector = 32, kUnit = 2, kNear = 1024;
  static constexpr int32_t kNone = -1, kSeveral = -2;

  std::string name_;
  uintptr_t begin_;
  size_t size_;
  std::vector<uint8_t> touched_[2];       // of every byte
  std::vector<int32_t> sector_block_[2];  // the block that touched a sector last
  std::vector<int32_t> writer_, reader_;  // of every two bytes
  int64_t block_sectors_[2] = {0, 0};
};

}  // namespace emulation
