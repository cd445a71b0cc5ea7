"""The one fit loop, its schedule, and where it computes."""
