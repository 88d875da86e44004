"""How a form is timed and checked, and what is noted of the machine."""
