// Which channels a dynamic grouping joins: with n gates h_1..h_n, a Kronecker product of n + 1 factors
//
//     U = U_1 x ... x U_n x ones(C_out / 2^n, C_in / 2^n),    U_j = I + h_j (ones(2, 2) - I)
//
// So output and input channels fall into 2^n blocks each, numbered by n bits of which h_1 owns the highest,
// and U is the product of the gates of those bits in which the two blocks differ:
//
//     U[o, i] = relation[block(o) xor block(i)],    relation[d] = prod over the bits j of d of h_j
//
// A gate of zero leaves out all blocks that differ in its bit. With binary gates 2^(n - sum h) groups remain.
#pragma once

#include <cstdint>

#include "common/effective_weight.h"

namespace kshot {

struct GroupRelation {
  int64_t gates;       // n
  int64_t row_block;   // output channels of a block
  int64_t block;       // elements of a block of input channels, in a run of a row (see mix_geometry.h)
  const void* values;  // [n] of the sum type: h_1 first

  int64_t blocks() const { return int64_t{1} << gates; }
  // The bit of the block numbers that gate j owns.
  int64_t bit(int64_t j) const { return int64_t{1} << (gates - 1 - j); }
};

// Arguments of mixing one dictionary under a grouping; its rows are output channels, its gate is null.
struct GroupWeight {
  EffectiveWeight mixing;
  GroupRelation groups;
};

}  // namespace kshot
