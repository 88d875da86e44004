// A stack to run on and the switch between two of them, announced to the sanitizers.
#pragma once

#include <cstddef>

// The processor that the switch between stacks is written for; others ask the operating system, which is
// slow.
#if defined(__x86_64__) && !defined(KSHOT_EMULATION_UCONTEXT)
#define KSHOT_EMULATION_X86
#else
#include <ucontext.h>
#endif

namespace emulation {

class Fiber {
 public:
  Fiber() = default;  // the caller's own stack
  Fiber(const Fiber&) = delete;
  ~Fiber();

  // Makes the next switch to this fiber enter `entry`, which must not return. `color` moves the start of the
  // stack, so that many of them do not share a few cache sets.
  void prepare(void (*entry)(), size_t color);

  // Forgets the calls that a given-up fiber stood in.
  void abandon();

  // From the fiber that runs to another. `last`: the one that runs will not be resumed.
  static void switch_between(Fiber& from, Fiber& to, bool last);

  // The first thing to do on a fiber entered anew. `caller`: the caller's own stack where that switched here.
  static void entered(Fiber* caller);

  void* stack_top() const { return stack_ + kStackBytes; }
  bool holds(const void* address) const {
    const char* byte = static_cast<const char*>(address);
    return byte >= stack_ && byte < stack_ + kStackBytes;
  }
  bool guards(const void* address) const;  // whether it is right below the stack

 private:
  static constexpr size_t kStackBytes = size_t{256} << 10;
#if defined(KSHOT_EMULATION_X86)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  char* stack_ = nullptr;
  void* thread_ = nullptr;      // the thread sanitizer's
  void* fake_stack_ = nullptr;  // the address sanitizer's
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace emulation
