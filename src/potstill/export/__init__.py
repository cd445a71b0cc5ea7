"""Students for use elsewhere: the ONNX graph and the proof that it computes the same."""
