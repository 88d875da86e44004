#include "traffic_counts.h"

namespace emulation {
namespace {

// A JSON object, written field by field. Strings here hold names of files and kernels only.
class Object {
 public:
  Object& field(const char* name, int64_t value) { return raw(name, std::to_string(value)); }
  Object& field(const char* name, const std::string& value) {
    std::string quoted = "\"";
    for (const char c : value) quoted += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    return raw(name, quoted + "\"");
  }
  Object& raw(const char* name, const std::string& json) {
    text_ += (text_.empty() ? "\"" : ", \"") + std::string(name) + "\": " + json;
    return *this;
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

std::string describe(const Instruction& instruction, const InstructionCounts& counts) {
  return Object()
      .field("address", static_cast<int64_t>(instruction.address))
      .field("file", instruction.site.file)
      .field("line", instruction.site.line)
      .field("write", instruction.write)
      .field("shared", instruction.shared)
      .field("accesses", counts.accesses)
      .field("bytes", counts.bytes)
      .field("sectors", counts.sectors)
      .field("ideal_sectors", counts.ideal_sectors)
      .field("wavefronts", counts.wavefronts)
      .field("ideal_wavefronts", counts.ideal_wavefronts)
      .field("worst_conflict", counts.worst_conflict)
      .text();
}

}  // namespace

std::string to_json(const TrafficCounts& counts) {
  std::string kernels;
  for (const auto& [address, kernel] : counts) {
    std::string instructions;
    for (const auto& [key, one] : kernel.instructions) {
      instructions += (instructions.empty() ? "" : ", ") + describe(one.first, one.second);
    }
    kernels += (kernels.empty() ? "" : ", ") + Object()
                                                   .field("address", static_cast<int64_t>(address))
                                                   .field("name", kernel.name)
                                                   .field("launches", kernel.launches)
                                                   .field("unique_bytes_read", kernel.unique_bytes[0])
                                                   .field("unique_bytes_written", kernel.unique_bytes[1])
                                                   .field("block_sectors_read", kernel.block_sectors[0])
                                                   .field("block_sectors_written", kernel.block_sectors[1])
                                                   .raw("instructions", "[" + instructions + "]")
                                                   .text();
  }
  return "[" + kernels + "]";
}

}  // namespace emulation
