// Compiles with a warning.
__global__ void unused_variable() {
  int never_used = 0;
}
