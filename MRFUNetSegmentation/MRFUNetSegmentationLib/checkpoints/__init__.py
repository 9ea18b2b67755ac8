"""Checkpoint files: one safetensors file holds a network and its model card.

`card`, `schema` and `header` need neither torch nor safetensors, so Slicer's own process can list
models; `load` needs both.
"""
