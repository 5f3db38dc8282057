"""What a network has learned: neural collapse, and how like another network's its features are."""

from i2p_zoo.analysis.features import image_features as image_features
from i2p_zoo.analysis.features import penultimate_features as penultimate_features
from i2p_zoo.analysis.neural_collapse import NeuralCollapse as NeuralCollapse
from i2p_zoo.analysis.neural_collapse import draw_collapse as draw_collapse
from i2p_zoo.analysis.neural_collapse import measure_collapse as measure_collapse
from i2p_zoo.analysis.neural_collapse import neural_collapse as neural_collapse
from i2p_zoo.analysis.stage_similarity import StageSimilarity as StageSimilarity
from i2p_zoo.analysis.stage_similarity import draw_similarity as draw_similarity
from i2p_zoo.analysis.stage_similarity import linear_cka as linear_cka
from i2p_zoo.analysis.stage_similarity import measure_movement as measure_movement
from i2p_zoo.analysis.stage_similarity import measure_similarity as measure_similarity
from i2p_zoo.analysis.stage_similarity import stage_features as stage_features
