"""From measured rows to files, means, tables and plots."""
