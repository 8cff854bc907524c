"""Students of equal cost, ranked by the Dice of their untrained reconstructions."""

import pytest

from nnunet_kd.cli import main
from nnunet_kd.planning import ranking
from nnunet_kd.planning.ranking import format_ranked, rank, shapes
from nnunet_kd.planning.student import parse_student
from nnunet_kd.utilities.files import load_json_file
from tests.unit.test_online_trainers import TEACHER, make_teacher
from tests.unit.toy_dataset import make_toy


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    toy = make_toy(tmp_path, monkeypatch)
    make_teacher(toy)
    return toy


def plan(*arguments):
    main(["plan", "-d", "900", "-c", "3d_fullres", "-o", "S", "--overwrite", "--teachers", f"{TEACHER}:0", *arguments])


def test_candidates_vary_in_what_the_user_left_open():
    assert [s.blocks for s in shapes(parse_student("width=0.5"))] == [1, 1, 0.5]
    for fixed in ("enet", "blocks=0.5", "width=0.5,decoder=1"):
        assert shapes(parse_student(fixed)) == [parse_student(fixed)]


def test_the_best_comes_first_and_is_marked():
    specs = [parse_student(s) for s in ("width=0.25", "width=0.5", "blocks=0.5")]
    ranked = rank(specs, dict(zip(specs, (0.5, 0.7, 0.6), strict=True)).get)
    assert [r.dice for r in ranked] == [0.7, 0.6, 0.5]
    lines = format_ranked(ranked).splitlines()
    assert lines[1].startswith("* width=0.5 ")
    assert [line[0] for line in lines[2:]] == [" ", " "]


def test_plan_takes_the_candidate_with_the_highest_dice(toy, capsys, monkeypatch):
    seen = []

    def dice(model, *_):
        arguments = model.manager.network_arch_init_kwargs
        seen.append(arguments["n_conv_per_stage_decoder"])
        return len(seen) / 10

    monkeypatch.setattr("nnunet_kd.planning.ranking.untrained_dice", dice)
    plan("--params", "1M", "--rank", "dice")
    assert len(seen) == 3
    written = load_json_file(toy.preprocessed / "S.json")
    assert written["kd"]["student"]["architecture"] == "blocks=0.5,decoder=1,params=1000000"
    assert "Candidates by the Dice of the untrained student" in capsys.readouterr().out


def test_plan_measures_reconstructions_of_the_teacher(toy, capsys):
    plan("--params", "1M", "--rank", "dice", "--student", "blocks=0.5,decoder=1")
    table = capsys.readouterr().out
    assert "* blocks=0.5,decoder=1,params=1000000" in table
    assert "1.000" in table  # as wide and deep as the teacher of one convolution a stage: a copy


def test_the_teacher_to_inherit_from_is_written_into_the_plans(toy):
    plan("--inherit-from", f"{TEACHER}:0")
    assert load_json_file(toy.preprocessed / "S.json")["kd"]["student"]["inherit_from"] == f"{TEACHER}:0"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rank", "dice"], "give --params or --latency-budget"),
        (["--inherit-from", f"{TEACHER}:7"], "no finished training"),
        (["--inherit-from", f"{TEACHER}:x"], "found the folds 'x'"),
        (["--params", "1M", "--rank", "dice", "--student", "enet"], "the student cannot inherit"),
    ],
)
def test_what_cannot_be_ranked_or_inherited_is_one_sentence(toy, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        plan(*arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (toy.preprocessed / "S.json").exists()


def test_plans_that_are_there_are_refused_before_anything_is_measured(toy, monkeypatch, capsys):
    monkeypatch.setattr(ranking, "untrained_dice", lambda *_: pytest.fail("measured"))
    (toy.preprocessed / "S.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["plan", "-d", "900", "-c", "3d_fullres", "-o", "S", "--params", "2k", "--rank", "dice"])
    assert stop.value.code == 2
    assert "S.json" in capsys.readouterr().err
