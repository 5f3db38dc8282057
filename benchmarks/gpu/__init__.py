"""Networks and peers on a GPU: `python -m benchmarks.gpu --help`."""
