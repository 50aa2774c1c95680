"""Reads tables of a study for figures: roles of axes, chosen rates, numbers and names as text."""
