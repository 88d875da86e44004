"""What each search method should show, measured: one module a method, with a function `run`."""
