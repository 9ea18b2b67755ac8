"""The process that computes, and its client.

`client` and `process` run in the caller's process, `server` in its own
(`python -m MRFUNetSegmentationLib.worker`); both use `folder`, `protocol` and `sampled`. None but
`server` imports torch.
"""
