"""What a run is made of: dataclasses checked on construction."""

from afa_dist.config.ablation import AblationConfig, AblationRun
from afa_dist.config.analyse import AnalyseRun
from afa_dist.config.attack import ClassifierAttackConfig, ContrastiveAttackConfig, ThreatConfig, TrainAttackConfig
from afa_dist.config.exporting import ExportRun
from afa_dist.config.fields import PixelDistance, Section, section, setting
from afa_dist.config.method import AwpConfig, EmaConfig, MethodConfig
from afa_dist.config.runs import BaseRun, EvaluateRun, FinetuneRun, PipelineRun, PretrainRun, TrainingRun
from afa_dist.config.scaling import ScalingConfig
from afa_dist.config.sections import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)

__all__ = [
    "AblationConfig",
    "AblationRun",
    "AnalyseRun",
    "AwpConfig",
    "BaseRun",
    "CheckpointConfig",
    "ClassifierAttackConfig",
    "ContrastiveAttackConfig",
    "DataConfig",
    "EmaConfig",
    "EvaluateRun",
    "ExportRun",
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
