"""NVIDIA: driver, TensorRT engines and how they are built, kept and executed; SDKs are imported inside functions."""
