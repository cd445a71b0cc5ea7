"""Knowledge distillation: the loss, and the teacher's judgement that it compares with."""
