"""Bytes kept under their sha256: `ArtifactStore` is the seam, `LocalArtifacts` a folder on this machine."""

from headrace.artifacts.local import LocalArtifacts
from headrace.artifacts.store import CHUNK, ArtifactStore

__all__ = ["CHUNK", "ArtifactStore", "LocalArtifacts"]
