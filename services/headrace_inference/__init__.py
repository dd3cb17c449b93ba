"""The inference service: serves versions by the Open Inference Protocol."""
