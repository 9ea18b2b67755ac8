"""The process that computes, and its client.

`client`, `process`, `folder` and `protocol` run in the caller's process and never import torch;
`server` runs in its own (`python -m MRFUNetSegmentationLib.worker`).
"""
