"""What search methods do, measured: one module a method."""
