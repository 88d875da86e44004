"""Benchmarks: what kshot_ext does against plain PyTorch does. NOTES.md has method and figures."""
