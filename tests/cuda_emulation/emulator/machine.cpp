#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "device_memory.h"
#include "observer.h"
#include "sanitizers.h"
#include "shared_memory.h"
#include "signals.h"

// Written here only; kernels see them as constants (emulation/kernel_variables.h).
#pragma GCC visibility push(hidden)
uint3 kshot_thread_index asm("threadIdx");
uint3 kshot_block_index asm("blockIdx");
dim3 kshot_block_size asm("blockDim");
dim3 kshot_grid_size asm("gridDim");
#pragma GCC visibility pop

namespace emulation {
namespace {

int64_t volume(dim3 size) {
  return static_cast<int64_t>(size.x) * size.y * size.z;
}

std::string describe(dim3 size) {
  return "(" + std::to_string(size.x) + ", " + std::to_string(size.y) + ", " + std::to_string(size.z) + ")";
}

uint3 position(int64_t linear, dim3 size) {
  return {static_cast<unsigned>(linear % size.x), static_cast<unsigned>(linear / size.x % size.y),
          static_cast<unsigned>(linear / size.x / size.y)};
}

std::vector<int64_t> order_of_blocks(int64_t count, const Schedule& schedule) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (schedule.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (schedule.order == Order::kRandom) {
    Random random(schedule.seed);
    for (int64_t i = count - 1; i > 0; --i) {
      std::swap(order[i], order[random.below(static_cast<uint32_t>(i + 1))]);
    }
  }
  return order;
}

}  // namespace

Machine& machine() {
  static Machine* machine = new Machine;  // never destroyed: the sanitizers outlive statics
  return *machine;
}

void fail(const std::string& message) {
  if (machine().running()) machine().fail_in_kernel(message);
  throw Error(message);
}

namespace {
bool refused = false;
}

void run_grid(const LaunchSettings& settings, void (*body)(const void*), const void* data) {
  const char* name = std::getenv("KSHOT_EMULATION_REFUSES");
  if (name && std::strstr(settings.kernel, name)) {
    refused = true;
  } else {
    machine().run(settings, body, data);
  }
}

bool take_refusal() {
  return std::exchange(refused, false);
}

void Machine::check_settings() const {
  const LaunchSettings& s = *settings_;
  const auto refuse = [&](const std::string& why) {
    throw Error("launch of " + std::string(s.kernel) + " at " + s.site.file + ":" +
                std::to_string(s.site.line) + ": " + why);
  };
  if (volume(s.grid) == 0 || volume(s.block) == 0) {
    refuse("empty grid " + describe(s.grid) + " or block " + describe(s.block));
  }
  if (volume(s.block) > 1024 || s.block.z > 64) refuse("block too large: " + describe(s.block));
  if (s.grid.x > 0x7fffffffu || s.grid.y > 65535 || s.grid.z > 65535) {
    refuse("grid too large: " + describe(s.grid));
  }
  if (s.parameter_bytes > 4096) refuse("parameters take " + std::to_string(s.parameter_bytes) + " bytes");
  const int64_t limit = dynamic_shared_limit(s.function);
  if (s.shared_bytes < 0 || s.shared_bytes > limit) {
    refuse(std::to_string(s.shared_bytes) + " bytes of dynamic shared memory, of which " +
           std::to_string(limit) + " are allowed without cudaFuncSetAttribute for more");
  }
}

void Machine::run(const LaunchSettings& settings, void (*body)(const void*), const void* data) {
  if (running()) fail("a kernel launches a kernel");
  settings_ = &settings;
  body_ = body;
  data_ = data;
  check_settings();
  switches_ = 0;
  size_ = static_cast<int>(volume(settings.block));
  kshot_block_size = settings.block;
  kshot_grid_size = settings.grid;
  while (static_cast<int>(threads_.size()) < size_) threads_.push_back(std::make_unique<Thread>());
  const int warps = (size_ + kWarpLanes - 1) / kWarpLanes;
  meetings_.resize(std::max<size_t>(meetings_.size(), warps));
  living_lanes_.assign(warps, 0);

  const SignalGuard signals(schedule().most_seconds);
  observe_launch(settings);
  for (const int64_t block : order_of_blocks(volume(settings.grid), schedule())) {
    block_ = block;
    run_block(position(block, settings.grid));
    if (failure_.empty()) failure_ = mistake_in_shared_memory();
    if (!failure_.empty()) give_up();
  }
  observe_launch_end();
  failure_ = mistake_in_device_memory();
  if (!failure_.empty()) give_up();
}

void Machine::give_up() {
  for (auto& thread : threads_) thread->fiber.abandon();
  std::string message;
  std::swap(message, failure_);
  throw Error("kernel " + std::string(settings_->kernel) + ", block " +
              describe(position(block_, settings_->grid)) + ": " + message);
}

void Machine::run_block(uint3 index) {
  kshot_block_index = index;
  begin_shared_memory(settings_->shared_bytes);
  observe_block();
  start_threads();
  sanitizers::release(&start_order_);
  const int first = ready_.take();
  current_ = threads_[first].get();
  kshot_thread_index = current_->index;
  from_host_ = true;
  Fiber::switch_between(host_, current_->fiber, false);
  current_ = nullptr;
  sanitizers::acquire(&end_order_);
  if (failure_.empty() && living_ > 0) {
    failure_ = "deadlock: no thread can go on\n" + whereabouts();
  }
  observe_block_end();
}

void Machine::start_threads() {
  const sanitizers::Unseen unseen;  // fibers that were given up did not say what they leave behind
  living_ = size_;
  ready_.reset(schedule().order, schedule().seed + static_cast<uint64_t>(block_));
  barrier_.votes = {0, 0};
  for (auto& meetings : meetings_) {
    for (Meeting& meeting : meetings) meeting.arrived = 0;
  }
  std::fill(living_lanes_.begin(), living_lanes_.end(), 0u);
  for (int i = 0; i < size_; ++i) {
    Thread& thread = *threads_[i];
    thread.linear = i;
    thread.warp = i / kWarpLanes;
    thread.lane = i % kWarpLanes;
    thread.index = position(i, settings_->block);
    thread.ended = false;
    thread.waits_in = nullptr;
    thread.copies.clear();
    thread.batches = 0;
    thread.fiber.prepare(&Machine::enter, static_cast<size_t>(i));
    living_lanes_[thread.warp] |= 1u << thread.lane;
  }
  for (size_t warp = 0; warp < living_lanes_.size(); ++warp) {
    ready_.add(static_cast<int>(warp), living_lanes_[warp]);
  }
}

void Machine::enter() {
  Machine& self = machine();
  Fiber::entered(self.from_host_ ? &self.host_ : nullptr);
  self.from_host_ = false;
  sanitizers::acquire(&self.start_order_);
  self.body_(self.data_);
  self.end_thread();
}

void Machine::end_thread() {
  Thread& thread = *current_;
  thread.ended = true;
  --living_;
  living_lanes_[thread.warp] &= ~(1u << thread.lane);
  sanitizers::release(&end_order_);
  if (barrier_.votes.all > 0 && barrier_.votes.all == living_) complete_barrier();
  for (Meeting& meeting : meetings_[thread.warp]) {
    if (meeting.excuses_ended && meeting.arrived != 0 &&
        meeting.arrived == (meeting.mask & living_lanes_[thread.warp])) {
      complete_meeting(thread.warp, meeting);
    }
  }
  switch_to_next(true);
}

void Machine::switch_to_next(bool last) {
  Thread& self = *current_;
  if (++switches_ > schedule().most_switches) {
    fail_in_kernel("does not end: " + std::to_string(switches_) + " switches between threads\n" +
                   whereabouts());
  }
  const int next = ready_.take();
  if (next < 0) {
    Fiber::switch_between(self.fiber, host_, last);
  } else {
    current_ = threads_[next].get();
    kshot_thread_index = current_->index;
    if (current_ != &self) Fiber::switch_between(self.fiber, current_->fiber, last);
  }
}

void Machine::fail_in_kernel(const std::string& message) {
  Thread& thread = *current_;
  const dim3 index = thread.index;
  failure_ = "thread " + describe(index) + ": " + message;
  sanitizers::release(&end_order_);
  Fiber::switch_between(thread.fiber, host_, true);
  __builtin_unreachable();
}

void Machine::wait(const char* name, Site site, unsigned mask) {
  Thread& self = *current_;
  self.waits_in = name;
  self.site = site;
  self.mask = mask;
}

Votes Machine::wait_for_block(const char* name, bool predicate, Site site) {
  Thread& self = *current_;
  wait(name, site, 0);
  if (barrier_.votes.all == 0) {
    barrier_.name = name;
    barrier_.site = site;
  } else if (!(barrier_.site == site)) {
    fail_in_kernel("divergent barrier: threads of a block meet in different ones\n" + whereabouts());
  }
  barrier_.votes.yes += predicate;
  ++barrier_.votes.all;
  const int turn = barrier_.turn;
  sanitizers::release(&barrier_.order[turn]);
  if (barrier_.votes.all == living_) complete_barrier();
  switch_to_next(false);
  self.waits_in = nullptr;
  sanitizers::acquire(&barrier_.order[turn]);
  return barrier_.results[turn];
}

void Machine::complete_barrier() {
  barrier_.results[barrier_.turn] = barrier_.votes;
  barrier_.votes = {0, 0};
  barrier_.turn ^= 1;
  for (size_t warp = 0; warp < living_lanes_.size(); ++warp) {
    ready_.add(static_cast<int>(warp), living_lanes_[warp]);
  }
}

void Machine::meet(const char* name, unsigned mask, Site site, void* operand,
                   void (*complete)(void* const* operands, unsigned lanes), bool orders_memory,
                   bool excuses_ended) {
  Thread& self = *current_;
  wait(name, site, mask);
  if (!(mask >> self.lane & 1u)) fail_in_kernel("the mask leaves out the calling lane\n" + whereabouts());
  if (!excuses_ended && (mask & ~living_lanes_[self.warp])) {
    fail_in_kernel("the mask names lanes that have ended or do not exist\n" + whereabouts());
  }
  Meeting* meeting = nullptr;
  for (Meeting& one : meetings_[self.warp]) {
    if (one.arrived != 0 ? one.mask == mask : !meeting) meeting = &one;
    if (one.arrived != 0 && one.mask == mask) break;
  }
  meeting->mask = mask;
  if (meeting->arrived == 0) {
    meeting->name = name;
    meeting->site = site;
    meeting->complete = complete;
    meeting->excuses_ended = excuses_ended;
  } else if ((meeting->name != name && std::strcmp(meeting->name, name) != 0) ||
             (!excuses_ended && !(meeting->site == site))) {
    fail_in_kernel("lanes of a warp meet in different operations\n" + whereabouts());
  }
  meeting->operands[self.lane] = operand;
  meeting->arrived |= 1u << self.lane;
  const int turn = meeting->turn;
  if (orders_memory) sanitizers::release(&meeting->order[turn]);
  const unsigned expected = excuses_ended ? mask & living_lanes_[self.warp] : mask;
  if (meeting->arrived == expected) complete_meeting(self.warp, *meeting);
  switch_to_next(false);
  self.waits_in = nullptr;
  if (orders_memory) sanitizers::acquire(&meeting->order[turn]);
}

void Machine::complete_meeting(int warp, Meeting& meeting) {
  if (meeting.complete) meeting.complete(meeting.operands, meeting.arrived);
  ready_.add(warp, meeting.arrived);
  meeting.arrived = 0;
  meeting.turn ^= 1;
}

}  // namespace emulation
