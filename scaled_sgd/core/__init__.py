"""Network, parameterizations, losses, schedules: formulas without processes, files or configuration."""
