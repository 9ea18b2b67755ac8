"""The command line, `mrfunet`."""
