from pathlib import Path

import numpy as np
import pytest
import yaml

from scaled_sgd.config import KEYS, as_dict
from scaled_sgd.config.parsing import from_dict, parse
from scaled_sgd.config.yaml_files import _PlainLoader, load_plain
from scaled_sgd.core.errors import UserError


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_options_win_over_the_file_wherever_it_stands(order, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {depth: 3, base_width: 5}\n")
    config = parse(["--model.depth=8", f"--config={file}"][order])
    assert (config.model.depth, config.model.base_width) == (8, 5)


def test_a_later_file_wins_over_an_earlier_one(tmp_path):
    (tmp_path / "first.yaml").write_text("model: {depth: 3, base_width: 5}\n")
    (tmp_path / "second.yaml").write_text("model: {depth: 4}\n")
    config = parse([f"--config={tmp_path / name}.yaml" for name in ("first", "second")])
    assert (config.model.depth, config.model.base_width) == (4, 5)


def test_an_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert parse(["--config", str(file)]) == parse([])


def test_a_pair_of_numbers_is_an_activation():
    assert parse(["--model.activation=[0.6,0.8]"]).model.activation == (0.6, 0.8)


def test_a_written_configuration_reads_back_the_same(tmp_path):
    config = parse(["--model.activation=[1,2]", "--optim.clip_norm=2", "--run.trackers=[tensorboard]"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(as_dict(config)))
    assert parse(["--config", str(file)]) == config
    assert from_dict(as_dict(config)) == config


@pytest.mark.parametrize(
    "values", [{"model": {"deph": 1}}, {"modle": {}}, {"optim": {"lr": -1}}, {"loss": 3}]
)
def test_a_mistake_in_a_dictionary_gets_one_line(values):
    with pytest.raises(UserError, match=r"^[\w.]+: .*(allowed|did you mean)"):
        from_dict(values)


def test_paths_and_numbers_of_numpy_are_those_of_a_file():
    given = {
        "optim": {"steps": np.int64(3), "lr": np.float32(0.5)},
        "run": {"dir": Path("x"), "name": np.str_("r")},
        "data": {"source": Path("x.csv"), "inputs": [*np.array(["a", "b"])]},
    }
    config = from_dict(given)
    assert (config.optim.steps, config.optim.lr, config.run.dir) == (3, 0.5, "x")
    assert config.data.inputs == ["a", "b"]
    assert from_dict(as_dict(config)) == config
    yaml.safe_dump(as_dict(config))


def test_every_key_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--help"])
    assert leaving.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, key in KEYS.items():
        (start,) = (i for i, line in enumerate(lines) if line == f"  --{name} {{{key.allowed}}}")
        assert len(lines[start + 1].split("(default:")[0].split()) >= 2, name


def test_the_printed_configuration_can_be_read_back(tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--model.depth=9", "--print_config"])
    assert leaving.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse(["--config", str(file)]) == from_dict({"model": {"depth": 9}})


def test_a_mistake_leaves_nothing_for_the_next_command(capsys):
    with pytest.raises(UserError, match=r"model\.depth"):
        parse(["--print_config", "--model.depth", "x"])
    assert parse([]) == from_dict({})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["digits"])
def test_shipped_experiments_are_valid(name):
    assert parse(["--config", f"configs/experiments/{name}.yaml"]).data.source == "digits"


@pytest.mark.parametrize("written", ["010", "0_10", "-010"])
def test_an_integer_with_a_leading_zero_is_no_octal_number(written):
    with pytest.raises(
        UserError, match=r"^optim\.steps: '-?0_?10' does not fit; allowed: integers from 1, or null$"
    ):
        parse([f"--optim.steps={written}"])


def test_thousands_of_keys_are_read_without_comparing_each_with_each():
    """Each key is compared with others a few times, where every pair would be millions."""
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    def scalar(text):
        return yaml.ScalarNode("tag:yaml.org,2002:str", text)

    names = [Name(f"k{i}") for i in range(2000)]
    node = yaml.MappingNode("tag:yaml.org,2002:map", [(scalar(name), scalar("1")) for name in names])
    assert len(_PlainLoader("").construct_mapping(node)) == 2000
    assert compared < 20 * len(names)
    with pytest.raises(yaml.YAMLError, match="it has the key k7 twice"):
        load_plain("".join(f"k{i % 1999}: 1\n" for i in range(7, 2007)))


def test_a_message_shows_the_beginning_of_a_long_value():
    with pytest.raises(UserError, match=r"^optim.options: .*…") as caught:
        from_dict({"optim": {"options": {f"k{i}": 1 for i in range(20000)}}})
    assert len(str(caught.value)) < 1000
    with pytest.raises(UserError, match=r"^optim.lr: .*… does not fit") as caught:
        parse([f"--optim.lr={'x' * 20000}"])
    assert len(str(caught.value)) < 1000


def test_no_is_text_where_a_key_takes_text(tmp_path):
    file = tmp_path / "run.yaml"
    data = "data: {source: rows.csv, standardize: yes, constant: off, split: on}\n"
    file.write_text(f"run: {{precision: no, resume: no}}\n{data}")
    config = parse([f"--config={file}"])
    assert (config.run.precision, config.run.resume, config.data.split) == ("no", "no", "on")
    assert (config.data.standardize, config.data.constant) == (True, False)
    assert load_plain("{no: [off, true, False]}") == {"no": ["off", True, False]}
