"""The optimization service: makes a version small and fast, and reports what it cost."""
