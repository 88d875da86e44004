// What the threads of a block do, in words.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "machine.h"

namespace emulation {

std::string Machine::whereabouts() const {
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < size_; ++i) {
    const Thread& thread = *threads_[i];
    std::string what = "may run";
    if (thread.ended) {
      what = "ended";
    } else if (thread.waits_in) {
      what = std::string("in ") + thread.waits_in;
      if (thread.mask) {
        char mask[16];
        std::snprintf(mask, sizeof(mask), "(0x%08x)", thread.mask);
        what += mask;
      }
      what += std::string(" at ") + thread.site.file + ":" + std::to_string(thread.site.line);
    }
    groups[what].push_back(i);
  }
  std::string text;
  for (const auto& [what, members] : groups) {
    text += "  thread";
    for (size_t i = 0; i < members.size();) {
      size_t end = i + 1;
      while (end < members.size() && members[end] == members[end - 1] + 1) ++end;
      text += (i == 0 ? " " : ", ") + std::to_string(members[i]);
      if (end - i > 1) text += "-" + std::to_string(members[end - 1]);
      i = end;
    }
    text += ": " + what + "\n";
  }
  return text;
}

}  // namespace emulation
