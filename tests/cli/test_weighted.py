"""Balance losses as flags: names and weights, and how a config file's come through."""

from dataclasses import replace

import pytest

from sparsemix.balance import DeviceLoss, SequenceLoss, SwitchLoss, ZLoss
from sparsemix.cli.train import read
from sparsemix.cli.weighted import weighted_kinds
from sparsemix.config import to_json
from sparsemix.train import BalanceConfig, TrainConfig

DEFAULT = TrainConfig()


def losses_of(line: str):
    return read(["--out", "new", *line.split()]).resolved.balance.losses


@pytest.mark.parametrize(
    ("line", "losses"),
    {
        "switch=0.02 z=0.001 sequence": (SwitchLoss(weight=0.02), ZLoss(weight=0.001), SequenceLoss()),
        "z=1e-3": (ZLoss(weight=0.001),),
        "switch": (SwitchLoss(),),
        "switch=0": (SwitchLoss(weight=0.0),),
        "": (),
        "None": None,
    }.items(),
)
def test_names_with_weights_or_without(line, losses):
    assert losses_of(f"--balance.losses {line} --seed 3") == losses
    assert losses_of("--balance.scope global") is None


def test_those_of_a_file_stay_whole_unless_they_are_named(tmp_path):
    path = tmp_path / "config.json"
    own = (DeviceLoss(num_devices=4), SwitchLoss(form="first"))
    path.write_text(to_json(replace(DEFAULT, balance=BalanceConfig(losses=own))))
    assert losses_of(f"--config {path} --balance.scope global") == own
    assert losses_of(f"--config {path} --balance.losses z") == (ZLoss(),)


@pytest.mark.parametrize(
    ("line", "complaint"),
    {
        "swich=1": "BalanceConfig: losses: must be NAME or NAME=WEIGHT, got 'swich=1'; choose among switch, z, "
        "importance, load, sequence, ",
        "switch=much": "BalanceConfig: losses: must be NAME or NAME=WEIGHT, got 'switch=much'; choose",
        "switch=": "BalanceConfig: losses: must be NAME or NAME=WEIGHT, got 'switch='; choose",
        "0.01": "BalanceConfig: losses: must be NAME or NAME=WEIGHT, got '0.01'; choose",
        "switch=-1": "SwitchLoss: weight: Input should be greater than or equal to 0, got -1.0; correct the value",
        "switch=nan": "SwitchLoss: weight: Input should be .*, got nan; correct the value",
        "z device=1": "BalanceConfig: losses: must be of a kind that needs a weight at most, got 'device=1', which "
        "needs num_devices; say it in a file for --config",
    }.items(),
)
def test_what_is_no_loss_is_refused_in_one_line(line, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}") as caught:
        losses_of(f"--balance.losses {line}")
    assert "\n" not in str(caught.value)


def test_help_names_the_losses_that_a_flag_can_say(capsys):
    with pytest.raises(SystemExit):
        read(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--balance.losses {None}|[NAME[=WEIGHT] ...]" in text
    assert "NAME is one of switch, z, importance, load, sequence, local_entropy. (default: None)" in text


def test_only_lists_of_configs_with_a_weight_are_read_so():
    assert list(weighted_kinds(tuple[SwitchLoss | ZLoss, ...] | None)) == ["switch", "z"]
    assert weighted_kinds(tuple[SwitchLoss | BalanceConfig, ...]) == {}
    assert weighted_kinds(SwitchLoss | None) == {}
    assert weighted_kinds(tuple[str, ...] | None) == {}
