"""What scripts/check_data.sh says: nothing set, found, odd, missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from data.check import main
from data.setup.check import check, count_images
from data.setup.paper import check_weights
from data.sources.registry import find_source, sources
from tests.data.rasters import pixels, write_raster
from tests.data.shards import write_tar

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for source in sources().values():
        if source.variable:
            monkeypatch.delenv(source.variable, raising=False)
    monkeypatch.delenv("REFERENCE_ROOT", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def test_the_script_with_nothing_set(tmp_path):
    keep = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RSPRUNE_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "check_data.sh")], text=True, capture_output=True,
        env=keep, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and not done.stderr
    for source in sources().values():
        assert (source.variable or source.name) in done.stdout
    assert "download.sh nwpu" in done.stdout and "Follow the links" in done.stdout
    assert "Nothing is set" in done.stdout


def test_it_imports_little():
    code = "import sys, data.check; data.check.main([]); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, cwd=ROOT, check=True
    )
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("torch", "numpy", "pyarrow", "huggingface_hub", "tyro", "pydantic"):
        assert f"'{heavy}'" not in loaded


def test_found_odd_missing(tmp_path, monkeypatch, capsys):
    names = [f"UC/Images/class{c:02}/{n:03}.tif" for c in range(21) for n in range(100)]
    monkeypatch.setenv("UCM_ROOT", str(touch(tmp_path / "ucm", *names)))
    assert check(find_source("ucm")).state == "found"
    (tmp_path / "ucm" / names[0]).unlink()
    odd = check(find_source("ucm"))
    assert odd.state == "odd" and "2,099 images, 2,100 are published" in odd.notes
    assert main([]) == 0  # odd is said, and is no failure
    monkeypatch.setenv("NWPU_ROOT", str(tmp_path / "nowhere"))
    missing = check(find_source("nwpu"))
    assert missing.state == "missing" and "no such folder" in missing.notes[0]
    capsys.readouterr()
    assert main([]) == 1
    printed = capsys.readouterr().out
    assert "0 found, 1 odd, 1 missing" in printed and "[missing] NWPU_ROOT" in printed


def test_corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("RS5M_ROOT", str(tmp_path / "rs5m"))
    write_tar(tmp_path / "rs5m/train/rs3-train-0000.tar", {"0.img_content": b"x"})
    odd = check(find_source("rs5m"))
    assert odd.state == "odd" and "1 .tar files" in odd.there
    assert any("128 are published" in note for note in odd.notes)
    monkeypatch.setenv("GIT10M_ROOT", str(touch(tmp_path / "git", "images/a", "images/b.jpg")))
    assert check(find_source("git10m")).notes == ["2 images, 10,503,567 are published"]
    for spec in (f"git10m:{tmp_path / 'git'}", f"{tmp_path / 'git'}/images/*"):
        monkeypatch.setenv("GIT10M_ROOT", spec)
        assert check(find_source("git10m")).notes == ["2 images, 10,503,567 are published"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("USA1M_ROOT", str(tmp_path / "empty"))
    assert check(find_source("usa1m")).state == "missing"


def test_a_corpus_of_four_bands_is_not_taken_without_one(tmp_path, monkeypatch):
    for bands, state in ((4, "found"), (3, "missing")):
        folder = tmp_path / f"bands{bands}"
        folder.mkdir()
        write_raster(folder / "m_1.tif", pixels(300, 300, bands))
        monkeypatch.setenv("USA1M_ROOT", str(folder))
        finding = check(find_source("usa1m"))
        assert finding.state == state, finding.notes
    assert "3 bands; 4 are needed" in finding.notes[0]
    for order, found in (("rgb", False), ("RGBx", False), ("bgr", False), ("nrgb", True)):
        monkeypatch.setenv("USA1M_ROOT", f"usa1m:{tmp_path / 'bands4'}?bands={order}")
        finding = check(find_source("usa1m"))
        assert ("leaves near infrared out" not in "".join(finding.notes)) == found, order


def test_downstream(tmp_path, monkeypatch):
    pairs = [f"{side}im{d}/{n}.png" for side in ("", "test/") for d in (1, 2) for n in range(3)]
    monkeypatch.setenv("SECOND_ROOT", str(touch(tmp_path / "s", *pairs)))
    finding = check(find_source("second"))
    assert finding.state == "odd" and "train 3, test 3 pairs" in finding.there
    assert "train: 3 pairs, 2,968 are published" in finding.notes
    root = touch(tmp_path / "o", "a/images/a_1.tif", "a/labels/a_1.tif", "a/images/a_2.tif",
                 "a/labels/a_2.tif", "a/images/a_3.tif")  # fmt: skip
    (root / "train.txt").write_text("a_1.tif\nxbd_1.tif\n")
    (root / "val.txt").write_text("a_2.tif\n")
    (root / "test.txt").write_text("a_3.tif\n")
    monkeypatch.setenv("OEM_ROOT", str(root))
    finding = check(find_source("oem"))
    assert finding.state == "found", finding.notes  # what xBD lacks is expected
    assert any("listed in train.txt, not on disk" in note for note in finding.notes)
    monkeypatch.setenv("OEM_ROOT", str(tmp_path / "s"))
    assert check(find_source("oem")).state in ("odd", "missing")


def test_weights(tmp_path, monkeypatch):
    assert check(find_source("lpips")).state == "not set"
    touch(tmp_path / "torch", "hub/checkpoints/alexnet-owt-7be5be79.pth")
    assert check(find_source("lpips")).state == "found"
    monkeypatch.setenv("SD_VAE", str(touch(tmp_path / "vae", "config.json")))
    assert "no diffusion_pytorch_model.safetensors" in check(find_source("sd-vae")).notes[0]
    touch(tmp_path / "vae", "diffusion_pytorch_model.safetensors")
    assert check(find_source("sd-vae")).state == "found"
    monkeypatch.setenv("GIT_RSCLIP", "lcybuaa/Git-RSCLIP")
    assert "fetched when first used" in check(find_source("git-rsclip")).there


def test_weights_of_the_paper_profile_need_a_folder_a_cache_or_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    source = find_source("sd-vae")
    there = check_weights(source, reachable=True)
    assert there.state == "found" and "fetched when first used (335 MB)" in there.there
    absent = check_weights(source, reachable=False)
    assert absent.state == "missing" and "the network does not answer" in absent.notes[0]
    assert "download.sh sd-vae --out FOLDER and set SD_VAE=DIR" in absent.notes[1]
    monkeypatch.setenv("SD_VAE", str(touch(tmp_path / "vae", "config.json")))
    assert check_weights(source, reachable=True).state == "missing"
    touch(tmp_path / "vae", "diffusion_pytorch_model.bin")
    assert check_weights(source, reachable=False).state == "found"
    assert check_weights(find_source("lpips"), reachable=False).state == "missing"


def test_a_corpus_of_any_form_is_counted_as_far_as_needed(tmp_path, monkeypatch):
    def corpus(value, least=5):
        monkeypatch.setenv("GIT10M_ROOT", value)
        return check(find_source("git10m"), least)

    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", {f"{i}.jpg": b"x" for i in range(4)})
    assert count_images(f"{tmp_path}/{{0,1}}.tar", 5) == 8
    assert corpus(f"{tmp_path}/{{0,1}}.tar").ready
    few = corpus(f"{tmp_path}/0.tar")
    assert not few.ready and few.notes[0] == "4 images; at least 5 are needed"
    absent = corpus(f"{tmp_path}/{{0..4}}.tar")
    assert not absent.ready and "2.tar: no such file (3 missing, 2 there)" in absent.notes[0]
    (tmp_path / "images").mkdir()
    assert "no images" in corpus(f"{tmp_path}/images").notes[0]
    assert not corpus("").ready


def test_flags_of_the_profile(capsys):
    with pytest.raises(UserError, match=r"--experiment world_85: on which corpus.*git10m"):
        main(["--profile", "paper", "--experiment", "world_85"])
    with pytest.raises(UserError, match="--holdout 0: must be at least 1"):
        main(["--profile", "paper", "--holdout", "0"])
    with pytest.raises(SystemExit):
        main(["--profile", "huge"])
    with pytest.raises(UserError, match=r"sd-va: no such weights"):
        main(["--profile", "paper", "--without", "sd-va"])
    capsys.readouterr()
    main(["--profile", "paper"])
    assert "SD_VAE" in capsys.readouterr().out
    main(["--profile", "paper", "--without", "sd-vae"])
    assert "SD_VAE" not in capsys.readouterr().out


def test_the_experiments_reference(tmp_path, monkeypatch, capsys):
    folder = touch(tmp_path / "r", "a/1.jpg", "b/1.jpg")
    monkeypatch.setenv("REFERENCE_ROOT", f"ucm:{folder}")
    assert main([]) == 0
    assert "2 images of 2 classes" in capsys.readouterr().out
    monkeypatch.setenv("REFERENCE_ROOT", str(tmp_path / "nowhere"))
    assert main([]) == 1


def test_lists_and_tildes_are_looked_at_as_the_corpus_reads_them(tmp_path, monkeypatch):
    touch(tmp_path / "rs", "a/1.jpg", "a/2.jpg", "a/3.jpg")
    (tmp_path / "rs" / "some.csv").write_text("img_name,text\na/1.jpg,x\na/2.jpg,y\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    source = find_source("rs5m")
    for value, there in (
        (f"{tmp_path}/rs/some.csv", "at least 2 images listed"),
        ("~/rs/some.csv", "at least 2 images listed"),
        ("folder:~/rs/a", "at least 2 image files"),
        ("~/rs/a", "at least 2 image files"),
    ):
        monkeypatch.setenv("RS5M_ROOT", value)
        found = check(source, 2)
        assert found.ready and there in found.there, (found.there, found.notes)
    few = check(source, 4)
    assert few.notes[0] == "3 images; at least 4 are needed"
    monkeypatch.setenv("RS5M_ROOT", "~/rs/some.csv")
    assert check(source, 3).notes[0] == "2 images; at least 3 are needed"
    assert check(source).there == "~/rs/some.csv: 2 images listed"


def test_a_folder_is_walked_once_and_no_further_than_needed(tmp_path, monkeypatch):
    root = touch(tmp_path / "git", *(f"{n:02}/{i}.jpg" for n in range(20) for i in range(5)))
    walked = []

    def walk(place):
        for step in setup.walk_folders(place):
            walked.append(step[0])
            yield step

    setup = importlib.import_module("data.corpus.folder")
    monkeypatch.setattr("data.setup.check.walk_folders", walk)
    monkeypatch.setenv("GIT10M_ROOT", str(root))
    assert check(find_source("git10m"), 12).ready
    assert len(walked) == len(set(walked)) < 6
