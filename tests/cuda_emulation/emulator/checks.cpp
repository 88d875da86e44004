// What the compiler's checks of alignment and array bounds call in the plain and the traffic build, in place
// of the undefined behaviour sanitizer's own functions: the mistake becomes the launch's error.
#include <cstdint>
#include <cstdio>
#include <string>

#include "machine.h"

#if !defined(KSHOT_EMULATION_ASAN) && !defined(KSHOT_EMULATION_TSAN)

namespace {

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  SourceLocation location;
  const TypeDescriptor* type;
  unsigned char log_alignment, kind;
};
struct OutOfBounds {
  SourceLocation location;
  const TypeDescriptor *array, *index;
};

void tell(const std::string& what, const SourceLocation& location) {
  const std::string message = what + " at " + location.file + ":" + std::to_string(location.line);
  if (emulation::machine().running()) emulation::fail(message);
  std::fprintf(stderr, "%s\n", message.c_str());  // the compiler expects no exception here
}

}  // namespace

#pragma GCC visibility push(hidden)
extern "C" {

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t address) {
  const uintptr_t alignment = uintptr_t{1} << data->log_alignment;
  if (address == 0) return;  // the access itself faults
  tell("misaligned access to " + std::string(data->type->name) + ", which needs a multiple of " +
           std::to_string(alignment) + " bytes,",
       data->location);
}

void __ubsan_handle_out_of_bounds(OutOfBounds* data, uintptr_t index) {
  tell("index " + std::to_string(static_cast<int64_t>(index)) + " out of bounds of " + data->array->name,
       data->location);
}

}  // extern "C"
#pragma GCC visibility pop

#endif
