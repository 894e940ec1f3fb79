"""From a checkpoint to an ONNX file that is checked against it: the command ``export``."""
