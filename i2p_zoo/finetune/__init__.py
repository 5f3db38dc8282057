"""Finetuning: what trains, the training loop, accuracy, and labels from a teacher."""

from i2p_zoo.choices import MODES
from i2p_zoo.finetune.evaluation import Accuracy, evaluate
from i2p_zoo.finetune.freezing import ParameterCount, find_input_layers, freeze
from i2p_zoo.finetune.history import Evaluation, History, Step
from i2p_zoo.finetune.lora import add_lora_, lora_config, merge_lora_
from i2p_zoo.finetune.options import Options
from i2p_zoo.finetune.ridge import fit_ridge_
from i2p_zoo.finetune.statistics import adapt_statistics_
from i2p_zoo.finetune.tasks import Classification, Task
from i2p_zoo.finetune.teaching import label_by_teacher
from i2p_zoo.finetune.trainer import train
from i2p_zoo.layers.normalization import NORMS
from i2p_zoo.modules import eval_mode, find_classifier

__all__ = ["MODES", "NORMS", "Accuracy", "Classification", "Evaluation", "History", "Options", "ParameterCount", "Step", "Task"]
__all__ += ["adapt_statistics_", "add_lora_", "fit_ridge_", "merge_lora_"]
__all__ += ["eval_mode", "evaluate", "find_classifier", "find_input_layers", "freeze", "label_by_teacher", "lora_config"]
__all__ += ["train"]
