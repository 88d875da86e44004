#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sanitizers.h"

#if defined(KSHOT_EMULATION_X86)
// Saves what a call must preserve on the old stack and takes it from the new one.
extern "C" __attribute__((visibility("hidden"))) void kshot_emulation_switch_stack(void** old_stack,
                                                                                   void* new_stack);
asm(R"(
.text
.p2align 4
.hidden kshot_emulation_switch_stack
.globl kshot_emulation_switch_stack
.type kshot_emulation_switch_stack, @function
kshot_emulation_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kshot_emulation_switch_stack, .-kshot_emulation_switch_stack
)");
#endif

namespace emulation {
namespace {

// More than a large local array, which may reach far below the stack at once.
constexpr size_t kGuardBytes = size_t{1} << 20;

}  // namespace

Fiber::~Fiber() {
  abandon();
  if (stack_) munmap(stack_ - kGuardBytes, kStackBytes + kGuardBytes);
}

void Fiber::prepare(void (*entry)(), size_t color) {
  if (!stack_) {
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuardBytes, PROT_NONE);
    stack_ = static_cast<char*>(memory) + kGuardBytes;
  }
  bottom_ = stack_;
  bytes_ = kStackBytes;
  sanitizers::unpoison(stack_, kStackBytes);
  if (!thread_) thread_ = sanitizers::create_thread();
  const size_t usable = kStackBytes - (color % 32) * 192;
#if defined(KSHOT_EMULATION_X86)
  constexpr int kSavedRegisters = 6;
  void** top = reinterpret_cast<void**>(stack_ + usable);
  *--top = nullptr;  // what `entry` would return to
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = usable;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::abandon() {
  if (stack_ && thread_) sanitizers::destroy_thread(thread_);
  thread_ = nullptr;
}

void Fiber::switch_between(Fiber& from, Fiber& to, bool last) {
  if (!from.stack_) from.thread_ = sanitizers::current_thread();
  sanitizers::start_switch(last ? nullptr : &from.fake_stack_, to.bottom_, to.bytes_, to.thread_);
#if defined(KSHOT_EMULATION_X86)
  kshot_emulation_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
  sanitizers::finish_switch(from.fake_stack_);
}

void Fiber::entered(Fiber* caller) {
  // Only here do the bounds of the caller's own stack come to light.
  sanitizers::finish_switch(nullptr, caller ? &caller->bottom_ : nullptr, caller ? &caller->bytes_ : nullptr);
}

bool Fiber::guards(const void* address) const {
  const char* byte = static_cast<const char*>(address);
  return stack_ && byte >= stack_ - kGuardBytes && byte < stack_;
}

}  // namespace emulation
