"""Where metrics go besides metrics.csv."""

import json
import sys

import numpy as np
import pytest
from commands import StopAfter, command, train_own

from purerl.runs import execute, files, loggers


def test_tensorboard_files_hold_what_the_table_holds(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    a = tmp_path / "a"
    monkeypatch.setattr(execute, "Interrupts", StopAfter(2))
    assert train_own(a, "--tensorboard") == 130
    monkeypatch.undo()
    assert command("resume", a) == 0
    found = {}
    for path in sorted((a / "tensorboard" / "seed 1").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, check sum, event, check sum
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            at += 16 + size
    table = files.read_metrics(a / "metrics.csv", 3)
    loss = {step: value for (tag, step), value in found.items() if tag == "policy_loss"}
    assert loss == {int(s): float(x) for s, x in zip(table.steps, table.columns["policy_loss"][:, 1], strict=True)}


class Service:
    """Stands in for wandb and mlflow, which are too heavy to be installed for a test."""

    def __init__(self):
        self.logged, self.opened, self.id, self.info = [], [], "abc", self
        self.run_id = "abc"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.append("closed")

    def init(self, **given):
        self.opened.append((given["project"], given["id"]))
        return self

    def start_run(self, run_id, run_name):
        self.opened.append((run_name, run_id))
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def log_metrics(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.opened.append("closed")

    def set_experiment(self, name):
        self.experiment = name

    def set_tracking_uri(self, uri):
        self.uri = uri

    def log_params(self, values):
        self.params = values


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_get_every_chunk_and_a_resumed_run_goes_on_there(name, tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    config = {"tensorboard": False, "wandb": None, "mlflow": None, name: "mine", "env": "x"}
    for first in (0, 20):
        with loggers.opened(tmp_path, config, first) as log:
            log(first + 10, {"seed 0": {"loss": 1.0, "episode_return": np.nan}})
    assert service.logged == [(10, {"seed 0/loss": 1.0}), (30, {"seed 0/loss": 1.0})]
    assert [x[1] for x in service.opened if x != "closed"] == [None, "abc"] and service.opened.count("closed") == 2
    assert json.loads((tmp_path / "loggers.json").read_text()) == {name: "abc"}
