"""What a caller needs of the registry: `client.RegistryClient`, and the stubs in `v1`."""
