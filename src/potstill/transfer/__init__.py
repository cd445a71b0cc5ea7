"""More text for the student: found, sampled or perturbed, kept apart from what is held out, judged by the teacher."""
