// The machine that runs a grid: one block after another on the caller's operating-system thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulation/barriers.h"
#include "emulation/launch.h"
#include "ready_threads.h"
#include "thread.h"

namespace emulation {

// Lanes of one warp that meet in an operation: complete once all of `mask` are there.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  const char* name = nullptr;
  Site site{"", 0};
  bool excuses_ended = false;  // lanes that have ended need not come
  void* operands[kWarpLanes] = {};
  void (*complete)(void* const* operands, unsigned lanes) = nullptr;
  char order[2] = {};  // addresses for the thread sanitizer, by turns
  int turn = 0;
};

class Machine {
 public:
  void run(const LaunchSettings& settings, void (*body)(const void*), const void* data);

  bool running() const { return current_ != nullptr; }  // inside a kernel
  Thread& current() { return *current_; }
  const LaunchSettings& settings() const { return *settings_; }
  int64_t block() const { return block_; }  // the number of the block that runs
  unsigned living_lanes(int warp) const { return living_lanes_[warp]; }

  [[noreturn]] void fail_in_kernel(const std::string& message);

  Votes wait_for_block(const char* name, bool predicate, Site site);

  // Waits for the lanes of `mask`. The last to come calls `complete` on all operands, by lane.
  void meet(const char* name, unsigned mask, Site site, void* operand,
            void (*complete)(void* const* operands, unsigned lanes), bool orders_memory, bool excuses_ended);

  // What every thread of the block does, equal ones in one line.
  std::string whereabouts() const;

 private:
  static void enter();  // the first function on a fiber
  void run_block(uint3 index);
  void start_threads();
  void switch_to_next(bool last);
  void end_thread();
  void wait(const char* name, Site site, unsigned mask);
  void complete_barrier();
  void complete_meeting(int warp, Meeting& meeting);
  void check_settings() const;
  void give_up();

  const LaunchSettings* settings_ = nullptr;
  void (*body_)(const void*) = nullptr;
  const void* data_ = nullptr;

  std::vector<std::unique_ptr<Thread>> threads_;  // as many as the largest block had
  Fiber host_;
  bool from_host_ = false;
  Thread* current_ = nullptr;
  ReadyThreads ready_;
  int size_ = 0, living_ = 0;  // threads of the block
  std::vector<unsigned> living_lanes_;
  int64_t block_ = 0;
  uint64_t switches_ = 0;
  std::string failure_;

  struct Barrier {
    const char* name = nullptr;
    Site site{"", 0};
    Votes votes{0, 0};
    Votes results[2] = {};
    char order[2] = {};
    int turn = 0;
  } barrier_;
  std::vector<std::array<Meeting, kWarpLanes>> meetings_;  // of every warp; a lane is in one at most
  char start_order_ = 0, end_order_ = 0;
};

Machine& machine();

}  // namespace emulation
