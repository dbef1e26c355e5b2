"""The demo judges its own story."""

import sys
from pathlib import Path

import pytest

from examples.story import fault_of, main

WHOLE = "Once upon a time there was a dog. " + " ".join(f"word{i}" for i in range(60)) + ". Again, and again."


@pytest.mark.parametrize(
    ("story", "fault"),
    [
        (WHOLE, None),
        (WHOLE + ' "I did it!"\n', None),
        (WHOLE + " Lily day evening evening evening one one one one", "it repeats 'evening'"),
        (WHOLE + " and the cat and the cat and the cat and all.", "it repeats 'and the cat'"),
        (WHOLE + " They sat under", "its last sentence is not whole"),
        (WHOLE + " \ufffd.", "it holds bytes that are no text"),
        ("Once upon a time. The end.", "it has only 6 words"),
        ("", "its last sentence is not whole"),
    ],
)
def test_a_story_ends_well_or_has_a_fault(story: str, fault: str | None) -> None:
    assert fault_of(story) == fault


def told(tmp_path: Path, story: bytes, status: int = 0) -> list[str]:
    """A command that tells it."""
    path = tmp_path / "story"
    path.write_bytes(story)
    program = f"import sys; sys.stdout.write(open({str(path)!r}).read()); sys.exit({status})"
    return [sys.executable, "-c", program]


def test_a_good_story_is_shown_behind_its_beginning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["Once", *told(tmp_path, WHOLE.removeprefix("Once").encode())]) == 0
    assert capfd.readouterr() == (WHOLE, "")


def test_a_bad_end_is_an_error_that_shows_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["Once", *told(tmp_path, b" upon a time Lily one one one one")]) == 1
    shown, complaint = capfd.readouterr()
    assert shown == "Once upon a time Lily one one one one"
    assert "it repeats 'one'; it ends in 'upon a time Lily one one one one'" in complaint
    assert "`tplaunch check`" in complaint and complaint.count("\n") == 1


def test_a_command_that_fails_has_said_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["Once", *told(tmp_path, b" upon", status=3)]) == 3
    assert capfd.readouterr() == ("Once upon", "")
