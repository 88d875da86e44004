// How the emulator tells of a mistake in a kernel or in its launch.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

namespace emulation {

struct Site {
  const char* file;
  int line;
};

inline bool operator==(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// What a launch throws.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Ends the launch with `message`. On a thread of a kernel: never returns, the block's threads are given up
// where they stand. Outside of kernels: throws.
[[noreturn]] void fail(const std::string& message);

}  // namespace emulation

// Where the caller stands: as trailing default arguments of a function.
#define KSHOT_EMULATION_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
