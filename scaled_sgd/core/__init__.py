"""Formulas without processes, files or configuration: network, parameterizations, losses, schedules."""
