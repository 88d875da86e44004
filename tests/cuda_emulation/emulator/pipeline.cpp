// Asynchronous copies: issued with NaN left in the destination, landed when their thread waits.
#include <cstring>

#include "cuda_pipeline_primitives.h"
#include "machine.h"
#include "observer.h"
#include "sanitizers.h"
#include "shared_memory.h"

namespace emulation {
namespace {

constexpr size_t kMostBatchesLeft = 8;  // what the instruction can count

void land(const AsyncCopy& copy) {
  const size_t read = copy.bytes - copy.zero_fill;
  if (read > 0) sanitizers::see_read(copy.from, read);
  sanitizers::see_write(copy.to, copy.bytes);
  std::memcpy(copy.to, copy.from, read);
  std::memset(static_cast<char*>(copy.to) + read, 0, copy.zero_fill);
}

}  // namespace

void begin_async_copy(void* to, const void* from, size_t bytes, size_t zero_fill, Site site) {
  const auto refuse = [&](const std::string& why) {
    fail("asynchronous copy at " + std::string(site.file) + ":" + std::to_string(site.line) + ": " + why);
  };
  if (!machine().running()) refuse("outside of a kernel");
  if (bytes != 4 && bytes != 8 && bytes != 16) refuse(std::to_string(bytes) + " bytes, not 4, 8 or 16");
  if (zero_fill > bytes) refuse("more zeros than bytes");
  if (reinterpret_cast<uintptr_t>(to) % bytes) refuse("misaligned destination");
  if (reinterpret_cast<uintptr_t>(from) % bytes) refuse("misaligned source");
#if !defined(KSHOT_EMULATION_ASAN)  // there, static shared memory is not known
  if (!is_shared(to, bytes)) refuse("the destination is not shared memory");
#endif
  if (is_shared(from, bytes)) refuse("the source is shared memory");
  // A lane that only clears takes part in its warp's access all the same.
  if (bytes > zero_fill) sanitizers::see_read(from, bytes - zero_fill);
  observe_access(from, bytes - zero_fill, false, site);
  sanitizers::see_write(to, bytes);
  observe_access(to, bytes, true, site);
  std::memset(to, kPoison, bytes);
  Thread& thread = machine().current();
  thread.copies.push_back({to, from, bytes, zero_fill, thread.batches});
}

void commit_async_copies() {
  ++machine().current().batches;
}

void wait_for_async_copies(size_t batches_left) {
  Thread& thread = machine().current();
  if (batches_left > kMostBatchesLeft) batches_left = kMostBatchesLeft;
  while (!thread.copies.empty() && thread.copies.front().batch + batches_left < thread.batches) {
    land(thread.copies.front());
    thread.copies.pop_front();
  }
}

}  // namespace emulation
