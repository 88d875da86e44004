// Linked behind all kernels: see shared_begin.cpp.
#pragma GCC visibility push(hidden)
alignas(64) thread_local char kshot_emulation_shared_end[64];
#pragma GCC visibility pop
