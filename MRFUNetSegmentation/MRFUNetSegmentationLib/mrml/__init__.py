"""Between MRML nodes and arrays: needs Slicer's MRML classes, but neither torch nor Qt."""
