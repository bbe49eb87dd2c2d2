"""Everything that touches disk, screen or clock: the command line, progress, tables and pictures."""
