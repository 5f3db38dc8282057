"""`python -m i2p_zoo`: the command line."""

from i2p_zoo.cli import main

main(prog_name="i2p-zoo")
