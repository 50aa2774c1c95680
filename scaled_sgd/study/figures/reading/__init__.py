"""What figures read from the tables of a study: roles of axes, chosen rates, numbers and names in words."""
