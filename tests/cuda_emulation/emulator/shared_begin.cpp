// Linked before all kernels: their static shared arrays, and nothing else, lie between this and its twin at
// the end (shared_end.cpp), as thread-local variables are laid out in the order of linking.
#pragma GCC visibility push(hidden)
alignas(64) thread_local char kshot_emulation_shared_begin[64];
#pragma GCC visibility pop
