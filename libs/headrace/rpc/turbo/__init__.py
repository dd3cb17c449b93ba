"""gRPC's protocol over HTTP/2 without grpcio's machinery for each call: a front end for the same servicers."""
