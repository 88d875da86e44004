// What the sanitizers must be told about fibers, about order between threads, and about accesses that the
// emulator makes on a kernel's behalf. Nothing where the build has no sanitizer.
#pragma once

#include <cstddef>

#if defined(KSHOT_EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
extern "C" void __asan_loadN(const void* address, size_t bytes);
extern "C" void __asan_storeN(void* address, size_t bytes);
#elif defined(KSHOT_EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void* address, size_t bytes);
extern "C" void __tsan_write_range(void* address, size_t bytes);
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace emulation {
namespace sanitizers {

#if defined(KSHOT_EMULATION_TSAN)
inline void* create_thread() {
  return __tsan_create_fiber(0);
}
inline void destroy_thread(void* thread) {
  __tsan_destroy_fiber(thread);
}
inline void* current_thread() {
  return __tsan_get_current_fiber();
}
inline void acquire(void* order) {
  __tsan_acquire(order);
}
inline void release(void* order) {
  __tsan_release(order);
}
#else
inline void* create_thread() {
  return nullptr;
}
inline void destroy_thread(void*) {}
inline void* current_thread() {
  return nullptr;
}
inline void acquire(void*) {}
inline void release(void*) {}
#endif

inline void start_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                         [[maybe_unused]] size_t bytes, [[maybe_unused]] void* thread) {
#if defined(KSHOT_EMULATION_ASAN)
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#elif defined(KSHOT_EMULATION_TSAN)
  __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync);
#endif
}

inline void finish_switch([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** bottom = nullptr,
                          [[maybe_unused]] size_t* bytes = nullptr) {
#if defined(KSHOT_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
#endif
}

inline void poison([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if defined(KSHOT_EMULATION_ASAN)
  __asan_poison_memory_region(address, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if defined(KSHOT_EMULATION_ASAN)
  __asan_unpoison_memory_region(address, bytes);
#endif
}

inline void see_read([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if defined(KSHOT_EMULATION_ASAN)
  __asan_loadN(address, bytes);
#elif defined(KSHOT_EMULATION_TSAN)
  __tsan_read_range(const_cast<void*>(address), bytes);
#endif
}
inline void see_write([[maybe_unused]] void* address, [[maybe_unused]] size_t bytes) {
#if defined(KSHOT_EMULATION_ASAN)
  __asan_storeN(address, bytes);
#elif defined(KSHOT_EMULATION_TSAN)
  __tsan_write_range(address, bytes);
#endif
}

// The thread sanitizer does not look at what is done meanwhile.
struct Unseen {
#if defined(KSHOT_EMULATION_TSAN)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
  ~Unseen() {}
#endif
  Unseen(const Unseen&) = delete;
};

}  // namespace sanitizers
}  // namespace emulation
