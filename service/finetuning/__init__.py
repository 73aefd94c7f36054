"""A fine-tuning run: photos without captions in, a new checkpoint, a report and a verdict out; no broker."""
