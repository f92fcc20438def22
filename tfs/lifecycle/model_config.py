"""A ModelServerConfig, checked and translated: pure functions over the message.

Owns: every rule of a configuration with its code and text, in the reference's order; label rules; version policies.
Knows no threads, no files and no states (the label rule is told by a function what is available). All functions raise TfsError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from tfs.errors import FailedPrecondition, InvalidArgument
from tfs.lifecycle import files
from tfs.lifecycle.source import Choice, SourceModel, VersionPolicy
from tfs.lifecycle.states import ServableId
from tfs.messages import ModelConfig, ModelServerConfig

_TYPE_UNSPECIFIED = 0
_TYPE_TENSORFLOW = 1
_PLATFORM_OF_TYPE = {_TYPE_TENSORFLOW: "tensorflow"}


def names(config: ModelServerConfig | None) -> list[str]:
    return [model.name for model in config.model_config_list.config] if config is not None else []


def check(new: ModelServerConfig, old: ModelServerConfig | None) -> None:
    """Everything that can be said before labels and platforms: the transition, names, paths, changed platforms."""
    _check_transition(new, old)
    models = new.model_config_list.config
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise InvalidArgument(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
    for model in models:
        if not files.is_uri(model.base_path) and not os.path.isabs(model.base_path):
            raise InvalidArgument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    before = {model.name: model for model in old.model_config_list.config} if old is not None else {}
    for model in models:
        if model.name in before:
            _check_same_platform(model, before[model.name])


def _check_transition(new: ModelServerConfig, old: ModelServerConfig | None) -> None:
    if new.WhichOneof("config") == "custom_model_config":
        raise InvalidArgument("custom_model_config is not supported; list the models in model_config_list")
    first = old is None or old.WhichOneof("config") is None
    if not first and new.WhichOneof("config") != "model_config_list":
        raise FailedPrecondition(
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
        )


def _check_same_platform(new: ModelConfig, old: ModelConfig) -> None:
    was, wanted = platform_of(old), platform_of(new)
    if was != wanted:
        raise InvalidArgument(
            f"Illegal to change a model's platform. For model {new.name} platform was {was} and new platform "
            f"requested is {wanted}"
        )


def check_platforms(config: ModelServerConfig, supported: Iterable[str]) -> None:
    for model in config.model_config_list.config:
        platform = platform_of(model)
        if platform not in supported:
            raise InvalidArgument(f"Model {model.name} requests unsupported platform {platform}")


def check_logging(config: ModelServerConfig) -> None:
    """Request logging does not exist in the open-source reference: any logging_config is an error, found last."""
    if any(model.HasField("logging_config") for model in config.model_config_list.config):
        raise InvalidArgument("No request-logger-creator provided.")


def platform_of(model: ModelConfig) -> str:
    """The platform by either of its two fields."""
    typed = model.model_type != _TYPE_UNSPECIFIED
    if typed == bool(model.model_platform):
        which = "both" if typed else "neither"
        joint = "and" if typed else "nor"
        raise InvalidArgument(
            f"Illegal setting {which} ModelServerConfig::model_type (deprecated) {joint} "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not typed:
        return model.model_platform
    platform = _PLATFORM_OF_TYPE.get(model.model_type)
    if platform is None:
        raise InvalidArgument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return platform


def labels(
    config: ModelServerConfig,
    current: Mapping[str, Mapping[str, int]],
    available: Callable[[ServableId], bool],
    allow_unavailable: bool,
) -> dict[str, dict[str, int]]:
    """The label map of `config`: model -> label -> version. A label may only point to an available version; with
    `allow_unavailable` also elsewhere, unless it is in use (`current`) and would move."""
    made: dict[str, dict[str, int]] = {}
    for model in config.model_config_list.config:
        in_use = current.get(model.name, {})
        for label, version in sorted(model.version_labels.items()):
            unmoved = in_use.get(label, version) == version
            if not available(ServableId(model.name, version)) and not (allow_unavailable and unmoved):
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {model.name}, which is not currently "
                    "available for inference"
                )
            made.setdefault(model.name, {})[label] = version
    return made


def source_models(config: ModelServerConfig) -> list[SourceModel]:
    return [
        SourceModel(model.name, model.base_path, _policy(model)) for model in config.model_config_list.config
    ]


def _policy(model: ModelConfig) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(Choice.ALL)
    if choice == "specific":
        return VersionPolicy(Choice.SPECIFIC, versions=tuple(policy.specific.versions))
    return VersionPolicy(Choice.LATEST, count=max(policy.latest.num_versions, 1))
