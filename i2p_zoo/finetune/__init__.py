"""Finetuning: what trains, the training loop, accuracy, and labels from a teacher."""

from i2p_zoo.choices import MODES as MODES
from i2p_zoo.finetune.evaluation import Accuracy as Accuracy
from i2p_zoo.finetune.evaluation import evaluate as evaluate
from i2p_zoo.finetune.freezing import ParameterCount as ParameterCount
from i2p_zoo.finetune.freezing import find_input_layers as find_input_layers
from i2p_zoo.finetune.freezing import freeze as freeze
from i2p_zoo.finetune.history import Evaluation as Evaluation
from i2p_zoo.finetune.history import History as History
from i2p_zoo.finetune.history import Step as Step
from i2p_zoo.finetune.options import Options as Options
from i2p_zoo.finetune.tasks import Classification as Classification
from i2p_zoo.finetune.tasks import Task as Task
from i2p_zoo.finetune.teaching import label_by_teacher as label_by_teacher
from i2p_zoo.finetune.trainer import train as train
from i2p_zoo.layers.normalization import NORMS as NORMS
from i2p_zoo.modules import eval_mode as eval_mode
from i2p_zoo.modules import find_classifier as find_classifier
