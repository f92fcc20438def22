"""Configurations applied to a whole control plane with real threads and directories, and fake servables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from fakes import FakeServable

from tfs.errors import Code, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, TfsError
from tfs.lifecycle import model_config
from tfs.lifecycle.options import LifecycleOptions
from tfs.lifecycle.server_core import ServerCore, build
from tfs.lifecycle.states import ServableId, State
from tfs.messages import ModelConfig, ModelServerConfig

WAIT_S = 30.0


def model(name: str, base: Path, *specific: int, **fields: object) -> ModelConfig:
    made = ModelConfig(name=name, base_path=str(base), **({"model_platform": "tensorflow"} | fields))
    if specific:
        made.model_version_policy.specific.versions.extend(specific)
    return made


def config(*models: ModelConfig) -> ModelServerConfig:
    made = ModelServerConfig()
    made.model_config_list.config.extend(models)
    return made


class Plane:
    """A control plane whose loads fail for directories that hold a file `broken`, and block while `gate` is closed."""

    def __init__(self, **options: object) -> None:
        FakeServable.live = 0
        self.gate = threading.Event()
        self.gate.set()
        self.models: Mapping[str, Mapping[int, FakeServable]] = {}
        self.labels: Mapping[str, Mapping[str, int]] | None = None
        self.file: ModelServerConfig | TfsError = ModelServerConfig()
        chosen = {"max_num_load_retries": 0, "file_system_poll_wait_seconds": 0} | options
        self.core: ServerCore[FakeServable] = build(
            LifecycleOptions(**chosen),  # type: ignore[arg-type]
            self.load,
            None,
            self.publish,
            self.read,
        )

    def load(self, name: str, version: int, path: str) -> FakeServable:
        assert self.gate.wait(WAIT_S)
        if (Path(path) / "broken").exists():
            raise NotFound(f"{name} is broken")
        return FakeServable(name, version, path)

    def publish(
        self,
        models: Mapping[str, Mapping[int, FakeServable]],
        labels: Mapping[str, Mapping[str, int]] | None,
    ) -> None:
        self.models, self.labels = models, labels

    def read(self) -> ModelServerConfig:
        if isinstance(self.file, TfsError):
            raise self.file
        return self.file

    def states(self, name: str) -> dict[int, str]:
        return {s.version: s.state.name for s in self.core.model_status(name)}

    def wait_state(self, name: str, version: int, state: State) -> None:
        monitor = self.core._monitor
        assert monitor.wait_for(lambda: monitor.state(ServableId(name, version)) is state, WAIT_S)


@pytest.fixture
def plane() -> Iterator[Callable[..., Plane]]:
    made: list[Plane] = []

    def make(**options: object) -> Plane:
        made.append(Plane(**options))
        return made[-1]

    yield make
    for one in made:
        one.gate.set()
        assert one.core.close(WAIT_S)
        assert one.models == {}
        assert FakeServable.live == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for version in (1, 2, 5):
        (tmp_path / "good" / str(version)).mkdir(parents=True)
    return tmp_path / "good"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "bad" / "1" / "broken").mkdir(parents=True)
    return tmp_path / "bad"


def test_start_returns_when_every_model_serves(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base), model("b", base, 1, 2)))
    assert {name: sorted(v) for name, v in one.models.items() if name == "a"} == {"a": [5]}
    assert one.labels == {}
    assert one.states("a") == {5: "AVAILABLE"}
    assert one.core.model_names() == ["a", "b"]
    with pytest.raises(NotFound, match=r"^Could not find any versions of model c$"):
        one.core.model_status("c")
    with pytest.raises(NotFound, match=r"^Could not find version 4 of model a$"):
        one.core.model_status("a", 4)
    assert [s.version for s in one.core.model_status("a", 5)] == [5]


def test_a_broken_model_at_start_is_the_references_error(
    plane: Callable[..., Plane], base: Path, broken: Path
) -> None:
    with pytest.raises(TfsError) as caught:
        plane().core.start(config(model("a", base), model("m", broken), model("n", broken)))
    assert caught.value.status_text == (
        "UNKNOWN: 2 servable(s) did not become available: {"
        "{{name: m version: 1} due to error: NOT_FOUND: m is broken}, "
        "{{name: n version: 1} due to error: NOT_FOUND: n is broken}, }"
    )


def test_partial_start_serves_the_others_while_retries_go_on(
    plane: Callable[..., Plane], base: Path, broken: Path, tmp_path: Path
) -> None:
    one = plane(allow_partial_startup=True, max_num_load_retries=5)
    one.core.start(config(model("a", base), model("m", broken), model("none", tmp_path / "absent")))
    assert one.states("a") == {5: "AVAILABLE"}
    assert one.states("m") == {1: "LOADING"}


def test_a_start_without_versions_waits_and_ends_with_close(
    plane: Callable[..., Plane], tmp_path: Path
) -> None:
    one = plane()
    outcome: list[BaseException] = []

    def start() -> None:
        try:
            one.core.start(config(model("m", tmp_path)))
        except TfsError as e:
            outcome.append(e)

    starting = threading.Thread(target=start)
    starting.start()
    one.core.close(WAIT_S)
    starting.join(WAIT_S)
    assert [str(e) for e in outcome] == ["The server is shutting down"]


def test_an_empty_config_is_accepted_and_has_no_labels(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(ModelServerConfig())
    assert one.labels is None
    one.core.reload(config(model("a", base)))
    assert one.states("a") == {5: "AVAILABLE"}
    assert one.labels == {}


def test_reload_replaces_the_set(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    one.core.reload(config(model("b", base, 1), model("c", base, 2)))
    assert one.states("b") == {1: "AVAILABLE"}
    assert one.states("c") == {2: "AVAILABLE"}
    one.wait_state("a", 5, State.END)
    one.core.reload(config(model("a", base)))
    assert one.states("a") == {5: "AVAILABLE"}


def test_a_reload_that_takes_away_and_brings_back_never_reports_old_news(
    plane: Callable[..., Plane], base: Path
) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    for _ in range(20):
        one.core.reload(config())
        one.core.reload(config(model("a", base)))
        assert one.states("a")[5] in ("AVAILABLE", "UNLOADING")


def test_only_news_since_the_reload_count_as_failures(plane: Callable[..., Plane]) -> None:
    core = plane().core
    monitor, one = core._monitor, ServableId("m", 1)
    monitor.report(one, State.START)
    monitor.report(one, State.END, NotFound("the last time"))
    mark = monitor.serial
    assert core._outcome("m", mark, False).name == "ABSENT"
    monitor.report(one, State.START)
    assert core._outcome("m", mark, False).name == "COMING"
    monitor.report(one, State.END, NotFound("this time"))
    assert core._outcome("m", mark, False).name == "FAILED"


def test_a_broken_new_model_fails_the_reload_once(
    plane: Callable[..., Plane], base: Path, broken: Path
) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    wanted = config(model("a", base), model("m", broken))
    with pytest.raises(TfsError) as caught:
        one.core.reload(wanted)
    assert caught.value.status_text == (
        "UNKNOWN: 1 model(s) did not become available: {{{name: m version: 1} due to error: NOT_FOUND: m is broken}, }"
    )
    assert one.states("m") == {1: "END"}
    one.core.reload(wanted)
    assert one.states("a") == {5: "AVAILABLE"}


def test_a_reload_with_a_missing_path_answers(
    plane: Callable[..., Plane], base: Path, tmp_path: Path
) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    with pytest.raises(
        TfsError, match=r"^1 model.s. did not become available: .*Could not find base path"
    ) as e:
        one.core.reload(config(model("a", base), model("m", tmp_path / "absent")))
    assert e.value.code is Code.UNKNOWN


def test_a_reload_answers_by_its_time_limit(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    one.gate.clear()
    with pytest.raises(DeadlineExceeded, match=r"^Timed out waiting for model.s. to become available: b$"):
        one.core.reload(config(model("a", base), model("b", base)), timeout_s=0.01)
    assert one.states("a") == {5: "AVAILABLE"}
    one.gate.set()
    one.wait_state("b", 5, State.AVAILABLE)


def test_labels(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base, 1, 2)))
    one.wait_state("a", 1, State.AVAILABLE)
    one.wait_state("a", 2, State.AVAILABLE)
    one.core.reload(config(model("a", base, 1, 2, version_labels={"s": 1})))
    one.core.reload(config(model("a", base, 1, 2, version_labels={"s": 2, "t": 1})))
    assert one.labels == {"a": {"s": 2, "t": 1}}
    for bad in ({"s": 2, "u": 5}, {"u": 4}):
        with pytest.raises(
            FailedPrecondition,
            match=rf"^Request to assign label to version {bad['u']} of model a, which is not currently available",
        ):
            one.core.reload(config(model("a", base, 1, 2, version_labels=bad)))
    assert one.labels == {"a": {"s": 2, "t": 1}}
    one.core.reload(config(model("a", base, 1, 2)))
    assert one.labels == {}


def test_labels_for_unavailable_versions_by_flag(plane: Callable[..., Plane], base: Path) -> None:
    one = plane(allow_version_labels_for_unavailable_models=True)
    one.core.start(config(model("a", base, 1, version_labels={"s": 1, "gone": 4})))
    assert one.labels == {"a": {"s": 1, "gone": 4}}
    one.core.reload(config(model("a", base, 1, version_labels={"gone": 4, "new": 7})))
    assert one.labels == {"a": {"gone": 4, "new": 7}}
    with pytest.raises(FailedPrecondition, match="version 9 of model a"):
        one.core.reload(config(model("a", base, 1, version_labels={"gone": 9})))


def test_a_refused_config_does_not_block_later_ones(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    for fields in ({"model_type": 1}, {"model_platform": ""}, {"model_platform": "", "model_type": 2}):
        with pytest.raises(InvalidArgument):
            one.core.reload(config(model("a", base), model("z", base, **fields)))
    one.core.reload(config(model("a", base), model("b", base)))
    assert one.states("b") == {5: "AVAILABLE"}


def test_logging_config_is_refused_last(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    logged = model("b", base)
    logged.logging_config.SetInParent()
    with pytest.raises(InvalidArgument, match=r"^No request-logger-creator provided.$"):
        one.core.reload(config(model("a", base), logged))
    assert one.states("b") == {5: "AVAILABLE"}


def test_only_lists_are_reloaded(plane: Callable[..., Plane], base: Path) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    with pytest.raises(InvalidArgument, match=r"^ServerModelConfig type not supported by HandleReloadConfig"):
        one.core.reload(ModelServerConfig())


def test_a_bad_config_file_is_logged_once_and_ignored(
    plane: Callable[..., Plane], base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = plane()
    one.core.start(config(model("a", base)))
    one.file = InvalidArgument("Invalid protobuf file: '/m.conf'")
    one.core._poll_config()
    one.core._poll_config()
    assert caplog.text.count("Invalid protobuf file: '/m.conf'") == 1
    one.file = config(model("a", base), model("b", base))
    one.core._poll_config()
    assert one.states("b") == {5: "AVAILABLE"}


VALIDATION = [
    ([("m", "/x", {}), ("m", "/x", {})], "Illegal to list model m multiple times in config list"),
    ([("m", "a/b", {})], "Expected model m to have an absolute path or URI; got base_path()=a/b"),
    ([("m", "", {})], "Expected model m to have an absolute path or URI; got base_path()="),
    (
        [("m", "/x", {"model_type": 1})],
        "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
        "model name is m",
    ),
    (
        [("m", "/x", {"model_platform": ""})],
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
        "model name is m",
    ),
    (
        [("m", "/x", {"model_platform": "", "model_type": 2})],
        "ModelServerConfig::model_type choice 2 not supported.",
    ),
    ([("m", "/x", {"model_platform": "torch"})], "Model m requests unsupported platform torch"),
]


@pytest.mark.parametrize(("models", "text"), VALIDATION)
def test_validation(
    plane: Callable[..., Plane], models: list[tuple[str, str, dict[str, object]]], text: str
) -> None:
    made = config(*(model(name, path, **fields) for name, path, fields in models))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        plane().core.start(made)
    assert caught.value.message == text


def test_transitions(base: Path) -> None:
    old = config(model("a", base))
    model_config.check(old, None)
    model_config.check(old, ModelServerConfig())
    with pytest.raises(FailedPrecondition, match=r"^Cannot transition to requested config. It is only legal"):
        model_config.check(ModelServerConfig(), old)
    with pytest.raises(InvalidArgument) as caught:
        model_config.check(config(model("a", base, model_platform="torch")), old)
    assert caught.value.message == (
        "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested is torch"
    )
    model_config.check(config(model("a", base, model_platform="", model_type=1)), old)
