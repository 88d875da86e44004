// In which order threads and blocks run: the tests' choice.
#pragma once

#include <cstdint>
#include <string>

namespace emulation {

enum class Order { kForward, kReverse, kRandom };

struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 0;
  int64_t shift = 0;  // bytes by which buffers begin behind an aligned address
  uint64_t most_switches = 200'000'000;
  int most_seconds = 120;  // of processor time for a launch
};

Schedule& schedule();
void set_schedule(const std::string& order, uint64_t seed, int64_t shift);

// Repeatable everywhere, unlike the standard library's distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}

  uint32_t below(uint32_t limit) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>((state_ >> 32) * limit >> 32);
  }

 private:
  uint64_t state_;
};

}  // namespace emulation
