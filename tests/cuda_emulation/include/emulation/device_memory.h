// Buffers in what stands for global memory. Buffers of outputs begin as NaN; the surroundings of all, and the
// contents of those that kernels may only read, are looked at when a kernel ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulation {

class DeviceBuffer {
 public:
  // Begins as a copy of `contents`, or as NaN for null. `constant`: kernels must not change it.
  DeviceBuffer(std::string name, size_t bytes, const void* contents, bool constant);
  DeviceBuffer(const DeviceBuffer&) = delete;
  ~DeviceBuffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::string& name() const { return name_; }

  std::string mistake() const;  // empty if there is none

 private:
  std::string name_;
  char* allocation_;
  size_t allocated_;
  char* data_;
  size_t bytes_;
  char* original_ = nullptr;  // of constant ones
};

}  // namespace emulation
