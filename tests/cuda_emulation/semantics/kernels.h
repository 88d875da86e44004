// Kernels that put one thing of the emulator to the test.
#pragma once

#include <cstdint>
#include <string>

namespace semantics {

enum class Kind { kIndex, kUp, kDown, kXor };

// A warp: received[lane] = the shuffle of values[lane], with operands[lane], within segments of `width`.
void shuffle_ints(const int* values, const int* operands, int* received, Kind kind, int width);
void shuffle_doubles(const double* values, double* received, int lane_mask);
// The halves of a warp shuffle on their own, the upper one twice.
void shuffle_halves(const int* values, int* received);

// Of 64 threads each: ballot, any, all of its warp, then or, and, count of the block.
void votes(const int* predicates, int* results);

// What thread and block see: x, y, z of thread and block and the sizes, 12 numbers a thread.
void coordinates(int* seen, int grid_x, int grid_y, int grid_z, int block_x, int block_y, int block_z);

// to[i] = the conversion of from[i] and back.
void to_float16(const float* from, uint16_t* to, float* back, int64_t size);
void to_bfloat16(const float* from, uint16_t* to, float* back, int64_t size);
void double_to_float16(const double* from, uint16_t* to, int64_t size);
void to_tf32(const float* from, float* to, int64_t size);

// c += a b by one warp, matrices packed by rows, b by columns where that is said. Which: 0 float16, 1
// bfloat16, 2 tf32, 3 float16 of 32x8x16, 4 float16 of 8x32x16. `by_columns`: a and c by columns, too.
void multiply(const void* a, const void* b, float* c, int which, bool by_columns);

// A thread's copies in three batches; what it sees after it waited for all but `left` of them.
void pipeline_batches(const float* from, float* seen, int left);
// Four copies of 16, 8, 4 and 16 bytes that end in zeros.
void pipeline_zero_fill(const float* from, float* seen);

// Integer atomics from all threads of all blocks: sum, max, number of threads.
void atomics(const int* values, int* results, int64_t size);
// Every thread's bit intrinsics of its value: popc, ffs, clz, brev, umulhi.
void bits(const unsigned* values, unsigned* results, int64_t size);
// Shared memory as a block finds it, dynamic and static, after the block before it filled its own.
void unwritten_shared(float* seen);
// Threads leave early, the others go on to a barrier.
void early_exit(const float* values, float* results);

// One mistake in a launch or a kernel each; `which` is its name.
void mistake(const std::string& which, float* results);

}  // namespace semantics
