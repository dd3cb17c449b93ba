"""What a durable store leaves on the disk: a manifest, snapshots, and the log of what came after them."""
