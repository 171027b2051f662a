"""Audio files and arrays: reading, writing and resampling, block by block.

`read`, `container`: any file → blocks of float32 (PyAV). `write`, `encoding` and the sinks (`wav`, `ogg`, `encoder`):
blocks → files.
`resample`: sample rates. `layout`: which channels belong together.
"""
