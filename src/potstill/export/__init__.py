"""Models for use elsewhere: students to hand on, teachers with their adapters merged."""
