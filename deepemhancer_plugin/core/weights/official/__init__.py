"""The authors' checkpoints: their files, their network, the original's steps, the download."""
