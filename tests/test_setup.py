"""Set-up: the requirement lists agree, and a profile whose needs are missing starts nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import requirements as checker  # noqa: E402


def test_environment_yml_is_the_same_set_as_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry for entry in environment["dependencies"] if isinstance(entry, dict))["pip"]
    assert pip[0] == "-c constraints.txt"
    assert sorted(pip[1:]) == sorted(checker.requirement_lines(["dev"]))


def test_every_requirement_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for line in checker.requirement_lines(["dev"]):
        requirement = Requirement(line)
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}: pinned {version}"


def test_the_packages_asked_for_are_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = " ".join(project["dependencies"])
    asked = "torch diffusers timm accelerate open_clip_torch torchmetrics lpips clean-fid wandb"
    assert [name for name in asked.split(" ") if name not in names] == []


def test_checker_names_what_is_missing() -> None:
    assert checker.unmet(["numpy>=1"]) == []
    assert "not installed" in checker.unmet(["no-such-package-at-all>=1"])[0]
    assert "found" in checker.unmet(["numpy>=1000"])[0]


def run_experiment(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_ROOT")}
    environment |= {"RSPRUNE_PYTHON": sys.executable, "RUNS": str(tmp_path / "runs"), **variables}
    return subprocess.run(
        ["bash", "experiments/git10m_85.sh"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_paper_profile_without_its_needs_lists_them_and_starts_nothing(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "one").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "one" / "a.png")
    result = run_experiment(tmp_path, GIT10M_ROOT=str(tmp_path / "one"), HF_HUB_OFFLINE="1")
    assert result.returncode != 0
    names = ("GPU", "GIT10M_ROOT", "REFERENCE_ROOT", "SECOND_ROOT", "OEM_ROOT", "GIT_RSCLIP",
             "SD_VAE", "inception", "lpips", "disk")  # fmt: skip
    for name in names:
        assert name in result.stdout
    assert "1 images; at least 15,000 are needed" in result.stdout
    assert "[missing] GIT10M_ROOT" in result.stdout and "nothing was started" in result.stdout
    assert not list((tmp_path / "runs" / "paper").glob("scores*"))
    assert "Traceback" not in result.stderr


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    result = run_experiment(tmp_path, PROFILE="huge")
    assert result.returncode == 2 and "expected mini, small, paper" in result.stderr
