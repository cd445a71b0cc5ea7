"""More text for the student: read, sampled, perturbed, words and spans, all unlike the held-out texts."""
