"""The line over all steps of ``nnUNetv2_kd distill``: how far they are, and the time that is left."""

import os
import pty

import pytest

from nnunet_kd.distill import progress as progressing
from nnunet_kd.distill.count import Count, count
from nnunet_kd.distill.progress import Progress, duration
from nnunet_kd.distill.step import Step


def epochs(*times, first=0, running=True):
    """nnU-Net's log after epochs of these times in seconds."""
    lines = ["This is the configuration used by this training", f"Epoch budget {first}x"]
    for number, seconds in enumerate(times, first):
        lines += ["", f"2026-01-01 12:00:00.1: Epoch {number} ", "2026-01-01 12:00:01.2: Current learning rate: 0.01 "]
        lines += ["train_loss -0.1 ", "Pseudo dice [0.1, 0.2] ", f"2026-01-01 12:00:09.2: Epoch time: {seconds} s "]
    return "\n".join([*lines, *([f"2026-01-01: Epoch {first + len(times)} "] if running else [])]) + "\n"


def training(log="training", **changes):
    return Step(f"{log}: explained", ["train"], log, **{"epochs": 10, **changes})


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progressing.time, "time", lambda: Clock.now)
    return Clock


class Run:
    """Steps whose logs a test writes."""

    def __init__(self, folder, groups, side_by_side=False):
        self.folder, self.progress = folder, Progress(groups, side_by_side)

    def write(self, step, text):
        (self.folder / step.log).write_text(text)

    def begin(self, *steps):
        for step in steps:
            self.progress.begin(step, self.folder / step.log)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("2026-01-01: Using torch.compile...\n", None),
        (epochs(), Count("epoch", 0, 10, None)),
        (epochs(8.0, 2.0, 3.0), Count("epoch", 3, 10, 3.0)),
        (epochs(*[2.0] * 10, running=False), Count("epoch", 10, 10, 2.0)),
        (epochs(first=7), Count("epoch", 7, 10, None)),
        (epochs(4.5, first=7), Count("epoch", 8, 10, 4.5)),
        (epochs(*[90.0] * 900, *[1.0] * 90), Count("epoch", 990, 10, 1.0)),
    ],
    ids=["empty", "not begun", "first epoch", "median", "all over", "resumed", "resumed, one over", "the last ones"],
)
def test_epochs_are_those_of_the_log(tmp_path, text, expected):
    (tmp_path / "log").write_text(text)
    assert count(training(), tmp_path / "log", 0.0) == expected


def test_a_log_that_is_not_there_yet_tells_nothing(tmp_path):
    assert count(training(), tmp_path / "log", 0.0) is None
    assert count(Step("bar", ["export"], "export", bar="soft labels"), tmp_path / "log", 0.0) is None


def test_cases_are_those_of_the_bar(tmp_path):
    step, log = Step("soft labels", ["export"], "export", bar="soft labels"), tmp_path / "log"
    log.write_text("\rsoft labels:   0%|          | 0/40 [00:00<?, ?case/s]")
    assert count(step, log, 0.0) == Count("case", 0, 40, None)
    with log.open("a") as file:
        file.write("\rother: 50%|##| 9/9 [09:09<00:00]\rsoft labels:  12%|#2   | 5/40 [01:01:40<7:11:40, 740.0s/case]")
    assert count(step, log, 0.0) == Count("case", 5, 40, 740.0)
    assert count(training(epochs=0), log, 0.0) is None


def test_files_of_an_earlier_run_do_not_count(tmp_path):
    files = tuple(tmp_path / f"case_{i}" for i in range(5))
    step = Step("predictions", ["predict"], "predict", files=files)
    for file, written in zip(files, (50.0, 110.0, 104.0, 122.0), strict=False):
        file.touch()
        os.utime(file, (written, written))
    assert count(step, tmp_path / "log", 100.0) == Count("case", 3, 5, 9.0)
    assert count(step, tmp_path / "log", 105.0) == Count("case", 2, 5, 12.0)
    assert count(step, tmp_path / "log", 115.0) == Count("case", 1, 5, None)


def test_the_time_left_is_that_of_the_epochs_to_come(tmp_path, clock):
    step = training()
    run = Run(tmp_path, [[step]])
    run.begin(step)
    run.progress.show()
    assert run.progress.time_left(clock.now) == (0.0, False)  # nothing is known
    run.write(step, epochs(4.0, 4.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (32.0, True)
    assert run.progress.time_left(clock.now + 3) == (29.0, True)
    assert run.progress.time_left(clock.now + 60) == (28.0, True)  # a long epoch: the others are left in full
    run.progress.end(step)
    assert run.progress.time_left(clock.now) == (0.0, True)


def test_a_training_that_has_not_begun_is_as_long_as_the_other_of_its_group(tmp_path, clock):
    student, twin, report = training("student"), training("twin"), Step("report", ["report"], "report")
    run = Run(tmp_path, [[student, twin], [report]])
    run.begin(student)
    run.write(student, epochs(4.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (36.0 + 40.0, False)  # and a report, of which nothing is known
    run.progress.end(student)
    run.begin(twin)
    assert run.progress.time_left(clock.now + 5) == (40.0, False)  # its start is no epoch
    run.write(twin, epochs())
    run.progress.show()
    assert run.progress.time_left(clock.now + 1) == (39.0, False)


def test_a_resumed_training_that_has_not_begun_is_not_guessed(tmp_path, clock):
    student, twin = training("student"), training("twin", is_resumed=True)
    run = Run(tmp_path, [[student, twin]])
    run.begin(student)
    run.write(student, epochs(4.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (36.0, False)
    run.progress.end(student)
    run.begin(twin)
    run.write(twin, epochs(first=8))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (8.0, True)


def test_trainings_side_by_side_take_as_long_as_the_longer_one(tmp_path, clock):
    steps = student, twin = training("student"), training("twin")
    run = Run(tmp_path, [steps], side_by_side=True)
    run.begin(*steps)
    run.write(student, epochs(5.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (50.0, True)  # the twin's first epoch is not over
    run.write(twin, epochs(3.0, 3.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (45.0, True)


def test_what_comes_after_the_last_epoch_makes_the_time_the_least(tmp_path, clock):
    step = training(validates=True)
    run = Run(tmp_path, [[step]])
    run.begin(step)
    run.write(step, epochs(4.0))
    run.progress.show()
    assert run.progress.time_left(clock.now) == (36.0, False)


def test_without_a_terminal_lines_come_when_a_time_is_known_and_then_now_and_then(tmp_path, clock, capsys):
    first, steps = Step("plans", ["plan"], "plan"), (training("student"), training("twin"))
    run = Run(tmp_path, [[first], steps], side_by_side=True)
    run.progress.end(first)
    run.begin(*steps)

    def shown(seconds):
        clock.now += seconds
        run.progress.show()
        return capsys.readouterr().out

    assert shown(1) == ""
    run.write(steps[0], epochs(600.0))
    line = "steps 2-3 of 3, about 1 h 40 min left: student, epoch 2 of 10; twin\n"
    assert shown(0) == line
    assert shown(59) == ""
    assert shown(1) == line  # the twin has not begun
    run.write(steps[1], epochs(500.0))
    lines = "".join(shown(30) for _ in range(120)).splitlines()
    assert lines[0] == "steps 2-3 of 3, about 1 h 28 min left: student, epoch 2 of 10; twin, epoch 2 of 10"
    assert 20 < len(lines) < 30  # one a minute would be 60


def test_a_step_of_which_nothing_is_known_has_no_time(tmp_path, clock, capsys):
    step = Step("the report", ["report"], "report")
    run = Run(tmp_path, [[step]])
    run.begin(step)
    run.progress.show()
    assert capsys.readouterr().out == ""
    clock.now += 61
    run.progress.show()
    assert capsys.readouterr().out == "step 1 of 1: the report\n"


def test_on_a_terminal_one_line_is_kept_up_to_date(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    step = training("student")
    run = Run(tmp_path, [[step]])
    with run.progress as progress:
        run.begin(step)
        run.write(step, epochs(4.0))
        progress.show()
        progress.say("above")
    printed = capsys.readouterr()
    assert printed.out == "above\n"
    assert "\rstep 1 of 1, about 36 s left: student, epoch 2 of 10" in printed.err
    assert "\n" not in printed.err


def test_a_terminal_without_columns_gets_lines_as_if_it_were_none(tmp_path, clock, capsys, monkeypatch):
    ours, theirs = pty.openpty()  # 0 columns, until someone sets them
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        step = training("student")
        run = Run(tmp_path, [[step]])
        run.begin(step)
        run.write(step, epochs(4.0))
        run.progress.show()
    os.close(ours)
    assert capsys.readouterr().out == "step 1 of 1, about 36 s left: student, epoch 2 of 10\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59.4, "59 s"), (59.9, "60 s"), (90, "2 min"), (3599, "1 h 0 min")]
)
def test_times_are_as_exact_as_they_may_look(seconds, words):
    assert duration(seconds) == words
