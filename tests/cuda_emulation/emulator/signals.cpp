#include "signals.h"

#include <ucontext.h>

#include <string>

#include "machine.h"

namespace emulation {

#if defined(KSHOT_EMULATION_X86) && !defined(KSHOT_EMULATION_ASAN) && !defined(KSHOT_EMULATION_TSAN)

namespace {

alignas(16) char handler_stack[64 << 10];
stack_t stack_before;
const char* fault = nullptr;

[[noreturn]] void tell_fault() {
  const std::string what = fault;
  fail(what + (what.find("time") == std::string::npos ? "" : "\n" + machine().whereabouts()));
}

// Sends the kernel's thread to tell_fault, on its own stack, which it will not need again.
void handle(int signal, siginfo_t* info, void* context) {
  if (!machine().running()) {
    ::signal(signal, SIG_DFL);
    return;
  }
  Fiber& fiber = machine().current().fiber;
  if (signal == SIGVTALRM) {
    fault = "does not end: too much processor time";
  } else if (signal == SIGFPE) {
    fault = "arithmetic fault, such as an integer division by zero";
  } else if (signal == SIGILL) {
    fault = "trap, such as __builtin_trap";
  } else if (fiber.guards(info->si_addr)) {
    fault = "stack overflow";
  } else {
    fault = "access to memory that is not there, or misaligned vector access";
  }
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  registers[REG_RSP] = reinterpret_cast<greg_t>(fiber.stack_top()) - 8;
  registers[REG_RIP] = reinterpret_cast<greg_t>(&tell_fault);
}

}  // namespace

SignalGuard::SignalGuard(int most_seconds) {
  stack_t stack = {};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof(handler_stack);
  sigaltstack(&stack, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = &handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  int i = 0;
  for (const int signal : kSignals) sigaction(signal, &action, &before_[i++]);
  const itimerval timer = {{0, 0}, {most_seconds, 0}};
  setitimer(ITIMER_VIRTUAL, &timer, nullptr);
}

SignalGuard::~SignalGuard() {
  const itimerval none = {};
  setitimer(ITIMER_VIRTUAL, &none, nullptr);
  int i = 0;
  for (const int signal : kSignals) sigaction(signal, &before_[i++], nullptr);
  sigaltstack(&stack_before, nullptr);
}

#else

SignalGuard::SignalGuard(int) {
  (void)before_;
}
SignalGuard::~SignalGuard() = default;

#endif

}  // namespace emulation
