"""What a run is made of: dataclasses checked on construction."""

from afa_dist.config.fields import PixelDistance, Section, section, setting
from afa_dist.config.runs import BaseRun, EvaluateRun, FinetuneRun, PipelineRun, PretrainRun, TrainingRun
from afa_dist.config.sections import (
    CheckpointConfig,
    ContrastiveAttackConfig,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimiserConfig,
    ScalingConfig,
    ScheduleConfig,
    ThreatConfig,
    TrackingConfig,
    TrainAttackConfig,
    ValidationConfig,
)

__all__ = [
    "BaseRun",
    "CheckpointConfig",
    "ContrastiveAttackConfig",
    "DataConfig",
    "EvaluateRun",
    "FinetuneRun",
    "MethodConfig",
    "ModelConfig",
    "OptimiserConfig",
    "PipelineRun",
    "PixelDistance",
    "PretrainRun",
    "ScalingConfig",
    "ScheduleConfig",
    "Section",
    "ThreatConfig",
    "TrackingConfig",
    "TrainAttackConfig",
    "TrainingRun",
    "ValidationConfig",
    "section",
    "setting",
]
