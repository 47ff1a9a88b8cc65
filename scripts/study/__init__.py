"""The learning study behind docs/results.md."""
