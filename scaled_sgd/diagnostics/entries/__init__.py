"""Entries of the registry of quantities, by subject: columns, needs and cost, without the code."""
