"""More text for the student: read, sampled or perturbed, and unlike the held-out texts."""
