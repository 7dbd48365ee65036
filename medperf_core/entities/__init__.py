"""The nouns: data and validation, no input or output."""

from medperf_core.entities.association import Association
from medperf_core.entities.benchmark import Benchmark
from medperf_core.entities.container import Container
from medperf_core.entities.dataset import Dataset
from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.entities.model import Asset, Model, ModelType
from medperf_core.entities.registry import Approval, AutoApproval, Entity, State
from medperf_core.entities.report import Finding, FindingStatus, StepRecord, TestReport
from medperf_core.entities.result import Result
from medperf_core.entities.roles import Role, VolumeKind
from medperf_core.entities.spec import CommandStyle, ContainerSpec, TaskSpec, VolumeSpec
from medperf_core.entities.user import User

__all__ = [
    "Approval",
    "Asset",
    "Association",
    "AutoApproval",
    "Benchmark",
    "CommandStyle",
    "Container",
    "ContainerSpec",
    "Dataset",
    "Entity",
    "Finding",
    "FindingStatus",
    "IdentityKind",
    "ImageIdentity",
    "ImageSource",
    "Model",
    "ModelType",
    "Result",
    "Role",
    "SourceKind",
    "State",
    "StepRecord",
    "TaskSpec",
    "TestReport",
    "User",
    "VolumeKind",
    "VolumeSpec",
]
