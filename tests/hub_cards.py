"""What the Hub on loopback has to say about the metadata of a README."""

from __future__ import annotations

import re
from typing import Any

import yaml

# The Hub's own list, as its error message printed it in 2026.
LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
    intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1
    ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
    llama3.3 llama4 grok2-community gemma unknown other
""".split()
TASKS = """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition depth-estimation
    document-question-answering feature-extraction fill-mask graph-ml image-classification image-feature-extraction
    image-segmentation image-text-to-image image-text-to-text image-text-to-video image-to-3d image-to-image image-to-text
    image-to-video keypoint-detection mask-generation multiple-choice object-detection other question-answering
    reinforcement-learning robotics sentence-similarity summarization table-question-answering table-to-text
    tabular-classification tabular-regression tabular-to-text text-classification text-generation text-ranking text-retrieval
    text-to-3d text-to-audio text-to-image text-to-speech text-to-video time-series-forecasting token-classification translation
    unconditional-image-generation video-classification video-text-to-text video-to-video visual-document-retrieval
    visual-question-answering voice-activity-detection zero-shot-classification zero-shot-image-classification
    zero-shot-object-detection
""".split()


def check_card(content: str) -> tuple[list[str], list[str]]:
    """The errors, which stop a push, and the warnings about a README."""
    front = re.match(r"\s*---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*(\r?\n|$)", content, re.DOTALL)
    try:
        metadata = yaml.safe_load(front[1] or "") if front else None
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ['"value" must be of type object'], []
    return _errors(metadata), _warnings(metadata)


def _errors(metadata: dict[str, Any]) -> list[str]:
    errors = []
    if not all(name in LICENSES for name in _listed(metadata.get("license", []))):
        errors.append(f'"license" must be one of [{", ".join(LICENSES)}]')
    # The Hub's site shows a warning of these words; here it stops the push, so that no test overlooks it.
    if (task := metadata.get("pipeline_tag", "other")) not in TASKS:
        errors.append(f'The pipeline tag "{task}" is not in the official list: {", ".join(TASKS)}')
    return errors


def _warnings(metadata: dict[str, Any]) -> list[str]:
    if "other" in _listed(metadata.get("license", [])) and not metadata.get("license_name"):
        return ['"license_name" is required if "license" is "other"']
    return []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
