"""Resources as people read them. Pure: messages in, tables and lines out."""
