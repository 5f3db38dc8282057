"""The paper's experiments: a finetuning run, few shots, steps to an accuracy; each leaves figures and pictures in a folder."""

from i2p_zoo.experiments.run_options import RunOptions as RunOptions
from i2p_zoo.experiments.runs import run as run
from i2p_zoo.experiments.setup import Setup as Setup
from i2p_zoo.experiments.setup import build_model as build_model
