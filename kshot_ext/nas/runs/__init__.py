"""Runs: settings, jobs, stages, and their state on disk."""
