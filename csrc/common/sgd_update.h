// Arguments of one step of SGD on a dictionary, alike on every backend.
#pragma once

#include "common/dictionary_update.h"

namespace kshot {

struct SgdUpdate : DictionaryUpdate {
  void* momentum_buffer;  // like weight, or null
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

}  // namespace kshot
