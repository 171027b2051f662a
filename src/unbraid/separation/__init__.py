"""The pipeline: from a source of blocks, by a plan, to blocks of stems, and from files to files."""
