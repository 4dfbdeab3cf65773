"""What a run is made of: dataclasses checked on construction."""

from afa_dist.config.ablation import AblationConfig, AblationRun
from afa_dist.config.analyse import AnalyseRun
from afa_dist.config.attack import ClassifierAttackConfig, ContrastiveAttackConfig, ThreatConfig, TrainAttackConfig
from afa_dist.config.base import BaseRun
from afa_dist.config.data_section import DataConfig
from afa_dist.config.diffusion import DiffusionRun, EdmConfig, UNetConfig
from afa_dist.config.exporting import ExportRun
from afa_dist.config.fields import PixelDistance, Section, section, setting
from afa_dist.config.generating import SampleRun, SelectRun, SetRun
from afa_dist.config.inspecting import InspectRun
from afa_dist.config.method import (
    AverageConfig,
    AwpConfig,
    EmaConfig,
    GeneratedConfig,
    GeneratedLabelsConfig,
    MethodConfig,
)
from afa_dist.config.runs import EvaluateRun, PipelineRun, ShardedRun
from afa_dist.config.scaling import ScalingConfig
from afa_dist.config.sections import (
    AdamConfig,
    CheckpointConfig,
    HeldOutConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrackingConfig,
    UpdateConfig,
    ValidationConfig,
)
from afa_dist.config.training import FinetuneRun, PretrainRun, RobustRun, TrainingRun

__all__ = [
    "AblationConfig",
    "AblationRun",
    "AdamConfig",
    "AnalyseRun",
    "AverageConfig",
    "AwpConfig",
    "BaseRun",
    "CheckpointConfig",
    "ClassifierAttackConfig",
    "ContrastiveAttackConfig",
    "DataConfig",
    "DiffusionRun",
    "EdmConfig",
    "EmaConfig",
    "EvaluateRun",
    "ExportRun",
    "FinetuneRun",
    "GeneratedConfig",
    "GeneratedLabelsConfig",
    "HeldOutConfig",
    "InspectRun",
    "MethodConfig",
    "ModelConfig",
    "OptimiserConfig",
    "PipelineRun",
    "PixelDistance",
    "PretrainRun",
    "RobustRun",
    "SampleRun",
    "SelectRun",
    "SetRun",
    "ScalingConfig",
    "ScheduleConfig",
    "Section",
    "ThreatConfig",
    "ShardedRun",
    "TrackingConfig",
    "TrainAttackConfig",
    "TrainingRun",
    "UNetConfig",
    "UpdateConfig",
    "ValidationConfig",
    "section",
    "setting",
]
