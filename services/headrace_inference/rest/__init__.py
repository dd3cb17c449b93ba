"""The Open Inference Protocol over HTTP, version 2: a translator in front of the gRPC service of the same process."""
