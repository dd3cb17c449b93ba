"""Messages of the Open Inference Protocol to values of the service, and back."""
